"""An expert outside of the registry: a model folder with a card that says what it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import new_folder
from teachers.evaluation import sentence
from teachers.models.adapters import is_adapter
from teachers.registry.records import ExpertRecord

CARD = "README.md"
ITS_OWN = "README.original.md"
"""The card that an imported expert came with."""


def export_expert(record: ExpertRecord, target: Path) -> Path:
    """Copies the expert's model to a new or empty folder and writes its card; whole or not at all.

    Raises ConfigError where the target holds something already, or cannot be written.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is not an empty folder; choose another target, nothing is overwritten")
    try:
        with new_folder(target, replace=False) as folder:
            shutil.copytree(record.model_path, folder, dirs_exist_ok=True)
            if (folder / CARD).exists():
                (folder / CARD).rename(folder / ITS_OWN)
            (folder / CARD).write_text(card(record), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror or error}") from None
    return target


def card(record: ExpertRecord) -> str:
    """The model card in Markdown: what it is, from what, how, and how good."""
    adapter = is_adapter(record.model_path)
    library = "peft" if adapter else "transformers"
    base = (record.base or {}).get("path") or "not recorded"
    kind = "LoRA adapter" if adapter else "model"
    parts = [
        f"---\nlibrary_name: {library}\npipeline_tag: text-generation\n---",
        f"# Expert {record.id}: {record.domain}",
        f"A {kind} for the domain {record.domain}, {_origin(record)}.",
        "## Base",
        f"`{base}`, weights sha256 `{record.base_sha256 or 'not recorded'}`.",
        "## Recipe",
        *_recipe(record),
        "## Evaluation",
        *_evaluation(record),
        "## Identity",
        f"Weights sha256 `{record.weights_sha256}`, made {record.created}.",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(record: ExpertRecord) -> str:
    if record.kind == "imported":
        return f"imported from `{record.source or 'not recorded'}`"
    return "trained by GRPO on the domain's prompts"


def _recipe(record: ExpertRecord) -> list[str]:
    if record.kind == "imported":
        return ["It was trained elsewhere; how is not recorded."]
    values: dict[str, Any] = {
        **(record.identity.get("recipe") or {}),
        "reward": record.identity.get("reward", "not recorded"),
        "prompts": record.prompts,
        "final reward": "not measured" if record.final_reward is None else f"{record.final_reward:.3f}",
    }
    return ["\n".join(f"- {name}: {value}" for name, value in values.items())]


def _evaluation(record: ExpertRecord) -> list[str]:
    if record.evaluation is None:
        return ["Not measured."]
    lines = []
    for name, score in record.evaluation.items():
        lines.append(f"- {sentence(name, score)}")
        if score.get("base"):
            lines.append(f"  - its base: {sentence(name, score['base'])}")
    return ["n is the number of problems.", "\n".join(lines)]
