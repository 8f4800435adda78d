"""Models of other architectures that read the demo student's tokens, with weights drawn from a seed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.helpers.paths import STUDENT


def qwen3_copy(target: Path, seed: int = 0, dtype: str = "bfloat16", **settings: Any) -> Path:
    """A Qwen3 with the student's tokenizer and a tied output head; its numbers are stored in `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    shutil.copytree(STUDENT, target)
    (target / "model.safetensors").unlink()
    config = Qwen3Config(
        **{
            "vocab_size": 99, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": True,
            "max_position_embeddings": 160, "initializer_range": 0.2, **_end_tokens(), **settings,
        }
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(target)
    shutil.copy(STUDENT / "generation_config.json", target)
    return target


def _end_tokens() -> dict[str, Any]:
    from transformers import AutoConfig

    student = AutoConfig.from_pretrained(STUDENT)
    return {name: getattr(student, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
