"""Students that are LoRA adapters: where a training that goes on from one begins, and its full model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import new_folder
from configs.schema import MergeConfig
from teachers.models.adapters import fingerprint, is_adapter
from teachers.registry.merged import full_model
from teachers.registry.opening import open_registry
from trainer.job import Lora, lora_of

if TYPE_CHECKING:
    from configs.training import Training

FULL = "student_full"
"""Folder of the run with adapter and base as one model, where `training.full_model` asks for it."""


def begins_at(config: MergeConfig, model: str | Path) -> dict[str, Any]:
    """Fields of a training job that goes on from a model of the run: a full one is trained in full, an
    adapter on the base student stays one adapter on it."""
    if not is_adapter(model):
        return {"model_path": str(model), "lora": None}
    settings = fingerprint(model).settings
    return {"model_path": config.student, "lora": Lora(settings["r"], settings["lora_alpha"], str(model))}


def as_full(config: MergeConfig, model: str | Path) -> Path:
    """The folder of a model of the run as a full model: its own, or that of adapter and base student as one,
    kept in the registry and made where it is missing."""
    return Path(full_model(config.student, model, open_registry(config.registry)))


def write_full_student(config: MergeConfig, student: Path) -> None:
    """Writes `student_full/` beside the adapter, whole or not at all, where the config asks for it and it is
    not there."""
    target = student.with_name(FULL)
    if config.training.full_model and not target.exists():
        with new_folder(target) as made:
            shutil.copytree(as_full(config, student), made, dirs_exist_ok=True)


def adapter_text(training: Training) -> str | None:
    """What is trained, in words; None where all weights are."""
    lora = lora_of(training)
    return None if lora is None else f"a LoRA adapter of rank {lora.rank} and alpha {lora.alpha}"
