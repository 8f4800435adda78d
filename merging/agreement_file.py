"""The decisions of the router `agreement`, kept in the run folder: made once, read by every later command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.schema import MergeConfig
from routing.routers import Decision, Decisions
from routing.sources import Prompt
from trainer.files import write_json


def agreement_file(run_dir: Path) -> Path:
    """Where a run keeps them."""
    return Path(run_dir) / "prompts" / "agreement.json"


def write_decisions(
    run_dir: Path,
    key: str,
    undecided: Sequence[Prompt],
    each: Sequence[Decision],
    measured: Mapping[str, Any],
) -> None:
    """Keeps the decision on each prompt, in their order, and what was measured of them."""
    decided = {p.id: asdict(decision) for p, decision in zip(undecided, each, strict=True)}
    path = agreement_file(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": key, "decisions": decided, "measured": dict(measured)})


def read_decisions(run_dir: Path, key: str, undecided: Sequence[Prompt]) -> Decisions | None:
    """The decisions on these prompts; None where they were not made, or not on all of them, or not with
    these models and this router."""
    path = agreement_file(run_dir)
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["key"] != key or any(p.id not in stored["decisions"] for p in undecided):
        return None
    return Decisions([Decision(**stored["decisions"][p.id]) for p in undecided], stored["measured"])


def decisions_key(config: MergeConfig) -> str:
    """Digest of what the decisions depend on, prompts aside: router, student, experts, references."""
    parts = config.model_dump(mode="json", include={"routing", "student", "domains", "objective", "training"})
    used = {
        "routing": parts["routing"],
        "student": parts["student"],
        "reference": parts["objective"]["reference"],
        "experts": {name: domain["expert"] for name, domain in parts["domains"].items()},
        "max_tokens": parts["training"]["max_response_tokens"],
        "chat_template": config.chat_template,
    }
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()
