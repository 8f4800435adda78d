"""How much of the way from the base to its domains' teachers the student has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.records import Mode, Sample
    from eval.statistics.shares import Recovery, WorstShare


@dataclass(frozen=True)
class Headroom:
    """One domain: the student between the base (0) and the domain's own teacher (1)."""

    domain: str
    teacher: str
    benchmark: str
    recovery: Recovery


@dataclass(frozen=True)
class DecodingShare:
    """One decoding: the student between the base (0) and the routed oracle (1), each domain's own teacher."""

    mode: Mode
    macro: Recovery | None = None
    """Of the accuracies' means over the domains."""
    worst: WorstShare | None = None
    """Of the domains by themselves, the smallest."""
    absent: str = ""
    """Why neither could be measured; empty where they were."""


def find_share(mode: Mode, domains: Mapping[str, Mapping[str, Sequence[Sample]]], seed: int) -> DecodingShare:
    """The shares over all domains at one decoding.

    domains: by domain the samples of `student`, `teacher` and `base`, empty where a model has none; seed: the
    bootstrap's.
    """
    from eval.statistics.compare import recover_over

    for domain, sides in domains.items():
        if not sides:
            return DecodingShare(mode, absent=f"{domain} has no benchmark")
        for role, answers in sides.items():
            if not answers:
                return DecodingShare(mode, absent=f"{domain} has no answers of the {role}")
    macro, worst = recover_over(
        {domain: [sides["student"], sides["teacher"], sides["base"]] for domain, sides in domains.items()},
        seed,
    )
    few = (
        "" if macro else "a domain has fewer than 6 problems with judged answers of student, teacher and base"
    )
    return DecodingShare(mode, macro, worst, few)


def shares_to_json(found: Sequence[DecodingShare]) -> dict[str, Any]:
    """Plain values for `report.json` by decoding, null for what is not given."""
    return {
        share.mode: {"macro": _macro_json(share.macro), "worst": _worst_json(share.worst)} for share in found
    }


def _macro_json(macro: Recovery | None) -> dict[str, Any] | None:
    return None if macro is None else _recovery_json(macro)


def _worst_json(worst: WorstShare | None) -> dict[str, Any] | None:
    if worst is None:
        return None
    interval = None if worst.ratio is None else [worst.lo, worst.hi]
    return {
        "domain": worst.domain,
        "recovered": worst.ratio,
        "interval": interval,
        "unclear": list(worst.unclear),
    }


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
    own = {"teacher": headroom.teacher, "benchmark": headroom.benchmark}
    return own | _recovery_json(headroom.recovery)


def _recovery_json(r: Recovery) -> dict[str, Any]:
    return {
        "recovered": r.ratio,
        "interval": None if r.ratio is None else [r.lo, r.hi],
        "gap": r.gap,
        "gap_interval": [r.gap_lo, r.gap_hi],
        "n": r.n_problems,
    }
