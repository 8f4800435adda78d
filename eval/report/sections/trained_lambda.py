"""The reward scale lambda that each domain was trained at: it may move while the student trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Phase:
    """Steps in which one domain's lambda stayed as it was, or moved linearly. Steps count from 1."""

    first_step: int
    last_step: int
    at_first: float
    """Lambda in the first of these steps."""
    at_last: float


Trained = Mapping[str, Sequence[Phase]]
"""Phases of the whole training by domain; a domain that is absent was trained at its declared lambda."""


def to_json(trained: Trained) -> dict[str, list[dict[str, Any]]]:
    """Plain values for `report.json`."""
    return {domain: [vars(phase) for phase in phases] for domain, phases in trained.items()}


def from_json(stored: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, tuple[Phase, ...]]:
    """The records of `to_json`."""
    return {domain: tuple(Phase(**phase) for phase in phases) for domain, phases in stored.items()}


def only(trained: Trained, declared: Mapping[str, float], reward_scale: float) -> bool:
    """Whether every domain was trained at this lambda from the first step to the last."""
    values = {value for phases in trained.values() for p in phases for value in (p.at_first, p.at_last)}
    values |= {scale for domain, scale in declared.items() if domain not in trained}
    return values == {reward_scale}


def texts(declared: Mapping[str, float], trained: Trained) -> dict[str, str]:
    """Every domain's lambda as it was trained, such as `1.25` or `1.25 until step 34, then 1`."""
    return {
        domain: text(trained[domain]) if domain in trained else f"{scale:g}"
        for domain, scale in declared.items()
    }


def moved(declared: Mapping[str, float], trained: Trained) -> dict[str, str]:
    """The text of each domain that was not trained at its declared lambda throughout."""
    return {d: found for d, found in texts(declared, trained).items() if found != f"{declared[d]:g}"}


def in_one_line(declared: Mapping[str, float], trained: Trained) -> str:
    """The same of all domains: one text where they share it; empty where no domain has one."""
    found = texts(declared, trained)
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return listed(f"{scale} ({domain})" for domain, scale in found.items())


def listed(parts: Iterable[str]) -> str:
    """The parts in a row, with semicolons where a part holds a comma."""
    parts = list(parts)
    return ("; " if any("," in part for part in parts) else ", ").join(parts)


def text(phases: Sequence[Phase]) -> str:
    """One domain's phases in words."""
    parts = []
    for phase in phases:
        if phase.at_first == phase.at_last:
            part = f"{phase.at_first:g}"
        else:
            direction = "rising" if phase.at_first < phase.at_last else "falling"
            part = f"{phase.at_first:g} {direction} to {phase.at_last:g}"
        parts.append(part if phase is phases[-1] else f"{part} until step {phase.last_step}")
    return ", then ".join(parts)
