"""How much of the way from the base to its domain's teacher the student has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.records import Sample
    from eval.statistics.intervals import Recovery


@dataclass(frozen=True)
class Headroom:
    """One domain: the student between the base (0) and the domain's own teacher (1)."""

    domain: str
    teacher: str
    benchmark: str
    recovery: Recovery


def find_headroom(
    domain: str, benchmark: str, sides: Mapping[str, Sequence[Sample]], teacher: str, seed: int
) -> Headroom | None:
    """The domain's headroom on one benchmark, None if no problem has a judged answer of all three.

    sides: the samples of `student`, `teacher` and `base`; teacher: the teacher's name; seed: the bootstrap's.
    """
    from eval.statistics.compare import recover

    found = recover(sides["student"], sides["teacher"], sides["base"], seed)
    return None if found is None else Headroom(domain, teacher, benchmark, found)


def to_json(found: Sequence[Headroom], domains: Sequence[str]) -> dict[str, Any]:
    """Plain values for `report.json`, null for a domain that was not measured."""
    return dict.fromkeys(domains) | {h.domain: _row_json(h) for h in found}


def _row_json(headroom: Headroom) -> dict[str, Any]:
    r = headroom.recovery
    return {
        "teacher": headroom.teacher,
        "benchmark": headroom.benchmark,
        "recovered": r.ratio,
        "interval": None if r.ratio is None else [r.lo, r.hi],
        "gap": r.gap,
        "gap_interval": [r.gap_lo, r.gap_hi],
        "n": r.n_problems,
    }
