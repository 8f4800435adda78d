"""The probe behind `reward_scale: auto`: what the objective's optimum scores at each lambda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProbePoint:
    """Answers sampled from the optimum of one lambda."""

    reward_scale: float
    accuracy: float
    lo: float
    hi: float
    """95% interval, clustered by prompt."""
    prompts: int
    answers: int
    length: float
    finish_rate: float


@dataclass(frozen=True)
class ProbedDomain:
    """One domain's curve and the lambda that was taken from it."""

    domain: str
    reward_scale: float
    reason: str
    points: tuple[ProbePoint, ...]


def from_json(choices: Mapping[str, Mapping[str, Any]]) -> tuple[ProbedDomain, ...]:
    """The records of a run's `probe.json`, by domain."""
    return tuple(
        ProbedDomain(
            domain, choice["reward_scale"], choice["reason"], tuple(_point(p) for p in choice["curve"])
        )
        for domain, choice in choices.items()
    )


def to_json(probed: Sequence[ProbedDomain]) -> dict[str, Any]:
    """Plain values for `report.json`."""
    return {
        p.domain: {
            "reward_scale": p.reward_scale,
            "reason": p.reason,
            "curve": [vars(point) for point in p.points],
        }
        for p in probed
    }


def _point(values: Mapping[str, Any]) -> ProbePoint:
    lo, hi = values["interval"]
    kept = ("reward_scale", "accuracy", "prompts", "answers", "length", "finish_rate")
    return ProbePoint(lo=lo, hi=hi, **{key: values[key] for key in kept})
