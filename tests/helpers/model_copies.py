"""Copies of the demo student with other weights, made without loading a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.helpers.paths import STUDENT

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
    """A copy with the same weights and other entries in config.json, without layers that it then lacks."""
    from safetensors.numpy import save_file

    shutil.copytree(STUDENT, target)
    path = target / "config.json"
    config = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps(config), encoding="utf-8")
    left_out = tuple(f"model.layers.{layer}." for layer in range(config["num_hidden_layers"], 100))
    weights = {name: value for name, value in weights_of(target).items() if not name.startswith(left_out)}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a saved model, by name."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")
