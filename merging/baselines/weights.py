"""Baselines in weight space: models made from the experts' weights without training.

The record of the options that a baseline was made by is here too; trained ones with options have it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.blocks.baselines import WeightBaseline
from merging.baselines import task_vectors
from merging.state.baseline_record import options, write_record
from trainer.export import save_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

METHODS: Mapping[str, Callable[..., dict[str, torch.Tensor]]] = {
    "average": task_vectors.average,
    "task_arithmetic": task_vectors.task_arithmetic,
    "ties": task_vectors.ties,
    "dare": task_vectors.dare,
    "extrapolation": task_vectors.extrapolation,
}
"""By kind: a function of the base's weights, those of the experts, and the block's options by name."""


def merge_weights(baseline: WeightBaseline, base: Path, experts: Sequence[Path], target: Path) -> Path:
    """Writes the model that the block makes of the experts to `target`, with the base's other files.

    Computed in float32 and stored in the base's number format. Tensors that hold no floating numbers stay
    the base's. Raises ValueError where an expert's tensors differ from the base's in name or shape.
    """
    import torch

    model = _load(base)
    own = named_weights(model)
    given = []
    for path in experts:
        given.append(named_weights(_load(path)))
        if {n: v.shape for n, v in given[-1].items()} != {n: v.shape for n, v in own.items()}:
            raise ValueError(f"{path} and {base} hold tensors of different names or shapes")
    merged = METHODS[baseline.kind](own, given, **options(baseline))
    with torch.no_grad():
        for name, weight_P in own.items():
            weight_P.copy_(merged[name])
    save_model(model, base, target)
    # after the weights: a stop in between leaves a folder without a record, which counts as made otherwise
    write_record(baseline, target)
    return target


def _load(folder: Path) -> PreTrainedModel:
    from teachers.models.modules import loaded

    return loaded(folder, dtype="auto")


def named_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Its floating tensors, as views; one that has two names, as a tied output layer has, is listed once.

    Listed twice, it would count twice in a trim and be drawn twice in a drop.
    """
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {
        name: weight_P
        for name, weight_P in model.state_dict().items()
        if name in once and weight_P.is_floating_point()
    }
