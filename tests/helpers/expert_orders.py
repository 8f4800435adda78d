"""Expert orders and stored experts for the tests of registry, build and plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import MergeConfig
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt
from teachers.build import ExpertOrder
from teachers.models.fingerprint import fingerprint
from teachers.registry.local import (
    LEARNING_CURVE,
    MODEL,
    RECORD,
    ExpertRecord,
    Registry,
    expert_files,
    expert_id,
    record_json,
)
from tests.helpers.tiny_model import write_model

RECIPE: dict[str, Any] = {
    "kind": "rl",
    "steps": 4,
    "prompts_per_step": 2,
    "samples_per_prompt": 2,
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "max_response_tokens": 20,
    "save_every": 2,
    "seed": 0,
}


def order(student: Path | str, recipe: dict[str, Any] | None = None, **changes: Any) -> ExpertOrder:
    """An order for a math expert; `changes` are `reward`, `chat_template`, `training`, `prompts`, `verl` and
    `hardware`."""
    domain = {
        "expert": {**RECIPE, **(recipe or {})},
        "prompts": {"kind": "file", "path": "math.jsonl"},
        "reward": changes.get("reward", "exact"),
    }
    config = MergeConfig.model_validate(
        {
            "name": "demo",
            "student": str(student),
            "domains": {"math": domain},
            "chat_template": changes.get("chat_template", {}),
            "training": {"max_prompt_tokens": 16, "max_response_tokens": 24, **changes.get("training", {})},
            "hardware": changes.get("hardware", {"device": "cpu"}),
            "verl": changes.get("verl", {}),
        }
    )
    pairs = changes.get("prompts", [("1+1", "2"), ("1+2", "3")])
    prompts = tuple(
        RoutedPrompt(
            Prompt(f"id{i}", ({"role": "user", "content": text},), answer, None, "math.jsonl", i + 1, "math"),
            "math",
            "test",
        )
        for i, (text, answer) in enumerate(pairs)
    )
    return ExpertOrder("math", config, config.domains["math"].expert, prompts)


def store_expert(
    registry: Registry,
    identity: dict[str, Any],
    curve: list[dict[str, float]] = (),
    created: str = "2026-01-01T00:00:00+00:00",
    value: float = 0.5,
) -> ExpertRecord:
    """Puts a whole expert with a tiny model into the registry, as a build leaves it."""
    id = expert_id(identity)
    folder = registry.folder(id)
    model = write_model(folder / MODEL, value=value)
    (folder / LEARNING_CURVE).write_text("".join(json.dumps(row) + "\n" for row in curve))
    record = ExpertRecord(
        id=id,
        domain="math",
        identity=identity,
        weights_sha256=fingerprint(model).weights_sha256,
        prompts=2,
        final_reward=0.75,
        wall_seconds=12.5,
        attempts=1,
        created=created,
        versions={"python": "3.11"},
        path=str(folder),
    )
    (folder / RECORD).write_text(json.dumps(record_json(record)))
    return record


def store_whole(registry: Registry, identity: dict[str, Any], **more: Any) -> ExpertRecord:
    """As `store_expert`, with the digests of all its files."""
    own = Registry(registry.root)
    record = store_expert(own, identity, **more)
    folder = Path(record.path)
    record = replace(record, files=expert_files.digests(folder), size_bytes=expert_files.size(folder))
    own.update(record)
    return record
