"""The decisions of the router `agreement`, kept in the run folder: made once, read by every later command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from common.digests import json_sha256
from common.files import write_json
from common.reading import read_json
from configs.schema import MergeConfig
from routing.routers.decisions import Decision, Decisions
from routing.sources.collect import Prompt


class Stored(TypedDict):
    """What the file holds."""

    key: str
    decisions: dict[str, Decision]
    measured: dict[str, Any]


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
    """Keeps the decision on each prompt, in their order, beside earlier ones under the same key, and what was
    measured of them."""
    path = agreement_file(run_dir)
    decided = {p.id: decision for p, decision in zip(undecided, each, strict=True)}
    if (stored := _stored(path, key)) is not None:
        decided = stored["decisions"] | decided
    plain = {id: asdict(decision) for id, decision in decided.items()}
    write_json(path, {"key": key, "decisions": plain, "measured": dict(measured)})


def read_decisions(run_dir: Path, key: str, undecided: Sequence[Prompt]) -> Decisions | None:
    """The decisions on these prompts, open where none was made; None where none was made with these models
    and this router.

    A prompt that was left out for another reason (too long, say) was not decided on.
    """
    stored = _stored(agreement_file(run_dir), key)
    if stored is None:
        return None
    decisions = stored["decisions"]
    still_open = Decision(None, "decided once the experts are there", is_open=True)
    each = [decisions.get(p.id, still_open) for p in undecided]
    return Decisions(each, stored["measured"])


def _stored(path: Path, key: str) -> Stored | None:
    stored = read_json(path, Stored, "an agreement router's decisions") if path.exists() else None
    return stored if stored and stored["key"] == key else None


def decisions_key(config: MergeConfig) -> str:
    """Digest of what the decisions depend on, prompts aside: router, student, experts, references, modes."""
    parts = config.model_dump(mode="json", include={"routing", "student", "domains", "objective", "training"})
    own = {name: domain.declared_mode() for name, domain in config.domains.items() if domain.declared_mode()}
    used = {
        "routing": parts["routing"],
        "student": parts["student"],
        "reference": parts["objective"]["reference"],
        "experts": {name: domain["expert"] for name, domain in parts["domains"].items()},
        "max_tokens": parts["training"]["max_response_tokens"],
        "chat_template": config.chat_template,
        # only where there are any: other decisions keep their key
        **({"modes": own} if own else {}),
    }
    return json_sha256(used)
