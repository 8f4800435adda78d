"""What is remembered of the models that servers hold, and how they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.files import write_json
from common.reading import read_json
from configs.schema import MergeConfig
from configs.served import REFERENCE, Endpoint, served_place
from teachers.served.client import ServedModel
from teachers.served.examine import ServedFacts

FACTS = "served.json"
"""File of a run folder with what the servers said when the run began."""


def served_model(name: str, endpoint: Endpoint, facts: ServedFacts | None = None) -> ServedModel:
    """The model as its client wants it, with what is remembered of it."""
    return ServedModel(
        place=served_place(name),
        url=endpoint.url,
        model=endpoint.model,
        api_key_env=endpoint.api_key_env,
        max_requests=endpoint.max_requests,
        patience_seconds=endpoint.patience_seconds,
        canary_tolerance=endpoint.canary_tolerance,
        canary_ids=facts.canary_ids if facts else (),
        canary_logp=facts.canary_logp if facts else (),
    )


def write_facts(run_dir: Path, facts: Mapping[str, ServedFacts]) -> None:
    """Keeps what the servers say; the checks have left the canary of the run's beginning in it."""
    if facts:
        write_json(run_dir / FACTS, {name: own.to_json() for name, own in facts.items()})


def read_facts(run_dir: Path) -> dict[str, ServedFacts]:
    """What `write_facts` kept, by domain or `reference`; empty where nothing was."""
    path = run_dir / FACTS
    return read_json(path, dict[str, ServedFacts], "what servers said") if path.exists() else {}


def served_notes(config: MergeConfig) -> list[str]:
    """Which domains have teacher and reference read by different engines, one sentence each way."""
    served, scorer = config.served(), f"the {config.scorer.kind} scorer"
    by_server, by_scorer = ([n for n in config.domains if (n in served) == own] for own in (True, False))
    cost = "so that numerical differences between the two do not cancel in T - B"
    notes = []
    if by_server and REFERENCE not in served:
        notes.append(
            f"{', '.join(by_server)}: the teacher is read by its server and the reference by {scorer}, "
            f"{cost}; `objective.reference: {{kind: served, ...}}` has the reference read by a server too"
        )
    if by_scorer and REFERENCE in served:
        notes.append(
            f"{', '.join(by_scorer)}: the reference is read by a server and the teacher by {scorer}, {cost}"
        )
    return notes
