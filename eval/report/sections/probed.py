"""The probe behind `reward_scale: auto`: what the objective's optimum scores at each lambda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GreedyPoint:
    """The likeliest answer of the optimum to each prompt."""

    accuracy: float
    lo: float
    hi: float
    """95% interval."""
    answers: int


@dataclass(frozen=True)
class ProbePoint:
    """The optimum of one lambda: its sampled answers, and beside them the greedy ones."""

    reward_scale: float
    accuracy: float
    lo: float
    hi: float
    """95% interval, clustered by prompt."""
    prompts: int
    answers: int
    length: float
    finish_rate: float
    temperature: float = 1.0
    greedy: GreedyPoint | None = None
    """None where the probe of an earlier version did not measure it."""

    @property
    def mean(self) -> float | None:
        """Of both accuracies, which lambda is chosen by; None where one was not measured."""
        return None if self.greedy is None else (self.accuracy + self.greedy.accuracy) / 2


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
            "curve": [{**asdict(point), "mean": point.mean} for point in p.points],
        }
        for p in probed
    }


def _point(values: Mapping[str, Any]) -> ProbePoint:
    lo, hi = values["interval"]
    kept = ("reward_scale", "accuracy", "prompts", "answers", "length", "finish_rate")
    # earlier versions sampled at temperature 1, and nothing else
    temperature, greedy = values.get("temperature", 1.0), values.get("greedy")
    return ProbePoint(
        lo=lo,
        hi=hi,
        temperature=temperature,
        greedy=_greedy(greedy) if greedy else None,
        **{key: values[key] for key in kept},
    )


def _greedy(values: Mapping[str, Any]) -> GreedyPoint:
    lo, hi = values["interval"]
    return GreedyPoint(values["accuracy"], lo, hi, values["answers"])
