"""Merge configs, and what verl's configuration of their jobs tells the scorer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from configs.schema import MergeConfig
from tests.helpers.paths import STUDENT

TEACHERS = {"math": "/experts/math", "code": "/experts/code"}
EXPERT = {"kind": "model", "path": "/experts/x"}
PROMPTS = {"kind": "file", "path": "/prompts.jsonl"}

BASE: dict[str, Any] = {
    "name": "demo",
    "student": str(STUDENT),
    "domains": {name: {"expert": EXPERT, "prompts": PROMPTS, "reward": "exact"} for name in TEACHERS},
    "training": {
        "steps": 11, "prompts_per_step": 64, "samples_per_prompt": 2, "max_prompt_tokens": 72,
        "max_response_tokens": 48, "save_every": 5, "seed": 3,
    },
    "hardware": {"device": "cpu"},
}  # fmt: skip


def config_with(*path_and_value: Any) -> MergeConfig:
    """BASE with pairs of a dotted path and a value laid over."""
    data = deepcopy(BASE)
    for path, value in zip(path_and_value[::2], path_and_value[1::2], strict=True):
        node = data
        *above, last = path.split(".")
        for key in above:
            node = node.setdefault(key, {})
        node[last] = value
    return MergeConfig.model_validate(data)


def scorer_models(values) -> tuple[dict[str, str], dict[str, str]]:
    """(models, references) of the scorer."""
    begin = "protege.scorer.", "models.", "references."
    return tuple(
        {key.removeprefix(begin[0] + part): v for key, v in values.items() if key.startswith(begin[0] + part)}
        for part in begin[1:]
    )
