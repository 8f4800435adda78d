"""A run with a polish: two experts of kind `rl`, the demo student, few prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.load import LoadedConfig, load_config
from merging.state.teacher import Teacher
from tests.helpers.model_copies import noisy_copy, weights_of
from tests.helpers.opened_runs import OpenedRun, open_run
from tests.helpers.paths import STUDENT
from tests.helpers.stand_in_trainers import StageTrainer
from tests.helpers.tiny_model import sum_rows, write_config, write_jsonl

POLISH = {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2, "learning_rate": 0.25}


def polished_dict(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two steps of distillation, two of polish; `math` has four prompts, `code` two."""
    for name, count in (("math", 4), ("code", 2)):
        rows = [{**row, "prompt": f"{name} {row['prompt']}"} for row in sum_rows(count)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    expert = {"kind": "rl", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2}
    return {
        "name": "demo",
        "student": str(STUDENT),
        "domains": {
            name: {
                "expert": expert,
                "prompts": {"kind": "file", "path": f"{name}.jsonl"},
                "reward": "exact",
            }
            for name in ("math", "code")
        },
        "training": {"steps": 2, "prompts_per_step": 4, "max_prompt_tokens": 24, "max_response_tokens": 16},
        "hardware": {"device": "cpu"},
        "registry": "home",
        "baselines": [],
        "polish": POLISH,
        **changes,
    }


def polished_config(folder: Path, *overrides: str, **changes: Any) -> LoadedConfig:
    """As `polished_dict`, loaded."""
    return load_config(write_config(folder, polished_dict(folder, **changes)), overrides)


def open_polished(folder: Path, *overrides: str, **changes: Any) -> OpenedRun:
    """The run in `folder/run`, its prompts written."""
    return open_run(polished_config(folder, *overrides, **changes), folder / "run").written()


def experts(folder: Path) -> list[Teacher]:
    """Experts as a build would leave them."""
    for seed, name in enumerate(("math", "code")):
        if not (folder / f"{name}_expert").exists():
            noisy_copy(folder / f"{name}_expert", seed)
    return [Teacher(name, str(folder / f"{name}_expert"), "0" * 64, None) for name in ("math", "code")]


def stage_trainer(monkeypatch):
    """Stands in for the training of every stage."""
    trainer = StageTrainer()
    for place in ("trainer.run.train", "merging.training.rewarded.train"):
        monkeypatch.setattr(place, trainer)
    return trainer


def added(model, base):
    """By how much every tensor of a model differs from the base's in the mean."""
    before = weights_of(base)
    return {round(float((value - before[name]).mean())) for name, value in weights_of(model).items()}
