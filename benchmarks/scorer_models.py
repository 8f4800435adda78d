"""Models for the scorer's benchmark: a random base, and teachers that differ from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

SIZES: dict[str, dict[str, Any]] = {
    "demo": {"vocab_size": 99, "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 352},
    "larger": {"vocab_size": 2048, "hidden_size": 320, "num_hidden_layers": 6, "intermediate_size": 864},
    "large": {"vocab_size": 4096, "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408},
}
"""Llama settings: the demo student's (0.8 million weights), and 8.7 and 29.9 million weights."""

HEAD_WIDTH = 32
NOISE = 0.01
"""Standard deviation of what a teacher's weights differ by; the base's own is 0.02."""
RANK = 8
"""Of the LoRA adapters."""


def make_models(folder: Path, kind: str, size: str, teachers: int, seed: int = 0) -> dict[str, str]:
    """Writes the base and its teachers; returns {name: folder}, `reference` first, then `teacher_0`, ...

    `kind` is "full" (every weight of a teacher is its own) or "lora" (a peft adapter folder each). All
    weights are float32 and follow from the seed.
    """
    from transformers import set_seed

    set_seed(seed)
    base = _base(size)
    base.save_pretrained(folder / "reference")
    models = {"reference": str(folder / "reference")}
    for number in range(teachers):
        path = folder / f"teacher_{number}"
        if kind == "lora":
            _adapter(Path(models["reference"]), path)
        else:
            perturbed(base, path)
        models[path.name] = str(path)
    return models


def _base(size: str) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = SIZES[size]["hidden_size"] // HEAD_WIDTH
    return LlamaForCausalLM(
        LlamaConfig(
            **SIZES[size],
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=HEAD_WIDTH,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            dtype="float32",
        )
    )


def perturbed(base: PreTrainedModel, path: Path) -> None:
    """Writes a copy of the model whose every weight has noise added."""
    import copy

    import torch

    teacher = copy.deepcopy(base)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(torch.randn_like(weight), alpha=NOISE)
    teacher.save_pretrained(path)


def _adapter(base: Path, path: Path) -> None:
    """A LoRA folder as peft writes it; its B is random, since peft's own B of zero would change nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=NOISE)
    model.save_pretrained(str(path))
