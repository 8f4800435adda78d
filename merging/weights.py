"""Baselines in weight space: models made from the experts' weights without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.export import save_model


def average(models: Sequence[Path], target: Path) -> Path:
    """Writes the plain mean of the models' weights to `target`, with the first model's other files.

    The mean is taken in float32 and stored in the first model's number format. Raises ValueError where
    the models' tensors differ in name or shape.
    """
    import torch
    from transformers import AutoModelForCausalLM

    first = AutoModelForCausalLM.from_pretrained(models[0], dtype="auto")
    total = {name: value.detach().float() for name, value in first.state_dict().items()}
    for path in models[1:]:
        weights = AutoModelForCausalLM.from_pretrained(path, dtype="auto").state_dict()
        if {n: v.shape for n, v in weights.items()} != {n: v.shape for n, v in total.items()}:
            raise ValueError(f"{path} and {models[0]} hold tensors of different names or shapes")
        for name in total:
            total[name] = total[name] + weights[name].float()
    mean = {name: (value / len(models)).to(first.state_dict()[name].dtype) for name, value in total.items()}
    with torch.no_grad():
        first.load_state_dict(mean)
    return save_model(first, models[0], target)
