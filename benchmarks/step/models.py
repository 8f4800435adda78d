"""Students and teachers for the benchmark of a step."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scorer_models import perturbed
from configs.demo import problems

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

STUDENT = Path(problems.__file__).parent / "student"


@dataclass(frozen=True)
class Size:
    """A student with the demo's tokenizer."""

    hidden: int
    feed_forward: int
    layers: int


SIZES: dict[str, Size | None] = {"demo": None, "larger": Size(320, 864, 6), "large": Size(512, 1376, 8)}
"""None is the demo's student itself, 0.8 million weights; the others, of random weights, have 7.4 and 25.4
million."""

TEACHERS = ("math", "code")
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def make_models(folder: Path, size: str, seed: int = 0) -> dict[str, str]:
    """Writes the student and a teacher of each domain, which differs from it in every weight; returns
    {name: folder}, `student` first. Everything follows from the seed."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = SIZES[size]
    model = AutoModelForCausalLM.from_pretrained(STUDENT) if settings is None else _random(settings)
    models = {"student": str(folder / "student")}
    model.save_pretrained(models["student"])
    for name in TEACHERS:
        models[name] = str(folder / name)
        perturbed(model, folder / name)
    for path in models.values():
        for name in TEXT_FILES:
            shutil.copy(STUDENT / name, path)
    return models


def _random(size: Size) -> LlamaForCausalLM:
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(STUDENT)
    config.hidden_size, config.intermediate_size = size.hidden, size.feed_forward
    config.num_hidden_layers = size.layers
    config.num_attention_heads = config.num_key_value_heads = size.hidden // config.head_dim
    return LlamaForCausalLM(config)
