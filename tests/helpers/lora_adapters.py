"""LoRA adapters on the demo student, written without loading a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.model_copies import weights_of
from tests.helpers.paths import STUDENT

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path,
    seed: int = 0,
    *,
    rank: int = 4,
    alpha: int = 8,
    targets: tuple[str, ...] = LINEAR,
    scale: float = 0.1,
    base: Path = STUDENT,
    **settings: Any,
) -> Path:
    """An adapter in peft's format with normal numbers in both matrices; `settings` go over its config."""
    from safetensors.numpy import save_file

    generator = np.random.default_rng(seed)
    tensors = {}
    for name, value in weights_of(base).items():
        module = name.removesuffix(".weight")
        if module.rsplit(".", 1)[-1] in targets:
            rows, columns = value.shape
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = scale * generator.standard_normal(
                    shape
                ).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.05,
        "target_modules": list(targets), "bias": "none", "base_model_name_or_path": str(base), **settings,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
