"""Copies of the demo student with other weights, made without loading a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

STUDENT = Path(__file__).resolve().parents[2] / "configs" / "demo" / "student"

Change = Callable[[str, np.ndarray], np.ndarray]


def changed_copy(target: Path, change: Change, source: Path = STUDENT) -> Path:
    """A copy of the model folder whose every tensor is `change(name, tensor)`."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    changed = {name: np.ascontiguousarray(change(name, value)) for name, value in weights.items()}
    save_file(changed, target / "model.safetensors", metadata={"format": "pt"})
    return target


def noisy_copy(target: Path, seed: int, scale: float = 0.02, source: Path = STUDENT) -> Path:
    """A copy with normal noise on every tensor."""
    generator = np.random.default_rng(seed)
    return changed_copy(
        target, lambda _, value: value + scale * generator.standard_normal(value.shape, "float32"), source
    )


def reconfigured_copy(target: Path, **settings: object) -> Path:
    """A copy with the same weights and other entries in config.json."""
    shutil.copytree(STUDENT, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}), encoding="utf-8")
    return target


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a saved model, by name."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")
