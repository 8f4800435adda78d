"""Baselines in weight space: models made from the experts' weights without training.

The record of the options that a baseline was made by is here too; trained ones with options have it as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.baselines import Baseline, TrainedBaseline, WeightBaseline
from merging import task_vectors
from merging.progress import say
from trainer.export import save_model
from trainer.files import write_json

if TYPE_CHECKING:
    import torch

METHODS: Mapping[str, Callable[..., dict[str, torch.Tensor]]] = {
    "average": task_vectors.average,
    "task_arithmetic": task_vectors.task_arithmetic,
    "ties": task_vectors.ties,
    "dare": task_vectors.dare,
    "extrapolation": task_vectors.extrapolation,
}
"""By kind: a function of the base's weights, those of the experts, and the block's options by name."""

RECORD = "baseline.json"
"""File in the folder of a baseline's model, or of its training, with the block that it was made by."""


def merge_weights(baseline: WeightBaseline, base: Path, experts: Sequence[Path], target: Path) -> Path:
    """Writes the model that the block makes of the experts to `target`, with the base's other files.

    Computed in float32 and stored in the base's number format. Tensors that hold no floating numbers stay
    the base's. Raises ValueError where an expert's tensors differ from the base's in name or shape.
    """
    import torch

    model = _load(base)
    own = _weights(model)
    given = []
    for path in experts:
        given.append(_weights(_load(path)))
        if {n: v.shape for n, v in given[-1].items()} != {n: v.shape for n, v in own.items()}:
            raise ValueError(f"{path} and {base} hold tensors of different names or shapes")
    merged = METHODS[baseline.kind](own, given, **options(baseline))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(merged[name])
    save_model(model, base, target)
    # after the weights: a stop in between leaves a folder without a record, which counts as made otherwise
    write_record(baseline, target)
    return target


def write_record(baseline: Baseline, folder: Path) -> None:
    """Says in a baseline's folder which block it was made by."""
    write_json(folder / RECORD, _block(baseline))


def is_made(baseline: Baseline, folder: Path) -> bool:
    """Whether the folder, of the baseline's model or of its training, was made by the same block.

    A folder without a record was made by a kind without options; the folder's name is the kind.
    """
    if not folder.exists():
        return False
    record = folder / RECORD
    made_by = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"kind": folder.name}
    return made_by == _block(baseline)


def open_work(baseline: TrainedBaseline, work: Path) -> None:
    """Leaves a folder whose checkpoints, if any, are of a training by the same options."""
    if is_made(baseline, work):
        return
    if work.exists():
        say(f"baseline {baseline.kind}: its options have changed, so its training starts anew")
        shutil.rmtree(work)
    write_record(baseline, work)


def options(baseline: Baseline) -> dict[str, float | int]:
    """The block without its kind, and without what it leaves to the merge."""
    return baseline.model_dump(exclude={"kind"}, exclude_none=True)


def _block(baseline: Baseline) -> dict[str, str | float | int]:
    """The block as its record holds it."""
    return baseline.model_dump(mode="json", exclude_none=True)


def _load(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def _weights(model) -> dict[str, torch.Tensor]:
    """Its floating tensors, as views; one that has two names, as a tied output layer has, is listed once.

    Listed twice, it would count twice in a trim and be drawn twice in a drop.
    """
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {
        name: value
        for name, value in model.state_dict().items()
        if name in once and value.is_floating_point()
    }
