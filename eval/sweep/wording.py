"""What is concluded from a sweep, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from eval.report.wording import interval, points
from eval.seeds import SeedEstimate
from eval.sweep.data import SweepCurve, SweepData, SweepPoint


def sentences(data: SweepData) -> list[str]:
    """Two for every benchmark and mode: all lambdas against OPD, and the best one against the teacher."""
    found = []
    for curve in data.curves:
        where = f"{curve.domain} ({curve.benchmark}, {curve.mode})"
        compared = {p.reward_scale: p.against_opd for p in curve.points if p.against_opd is not None}
        if compared:
            found.append(f"{where}: {_against_opd(compared)}")
        best = most_accurate(curve)
        if best is not None and best.against_teacher is not None:
            found.append(
                f"{where}: the most accurate of these lambdas, {best.reward_scale:g}, "
                f"{_than_teacher(best.against_teacher)}; it was picked on these very problems"
            )
    return found


def _against_opd(compared: Mapping[float, SeedEstimate]) -> str:
    """Which lambdas beat lambda 1, which are below it, and which cannot be told from it."""
    by_sign = {sign: [s for s, d in compared.items() if _sign(d) == sign] for sign in (1, -1, 0)}
    parts = [
        "; ".join(f"lambda {scale:g} {verb} OPD: {evidence(compared[scale])}" for scale in by_sign[sign])
        for sign, verb in ((1, "beats"), (-1, "is below"))
        if by_sign[sign]
    ]
    if not by_sign[1]:
        parts.insert(0, "no lambda beats OPD")
    if by_sign[0]:
        scales = ", ".join(f"{scale:g}" for scale in by_sign[0])
        widest = max(abs(end) for s in by_sign[0] for end in (compared[s].lo, compared[s].hi))
        parts.append(f"lambda {scales} cannot be told from it (intervals within {points(widest)} points)")
    return "; ".join(parts)


def most_accurate(curve: SweepCurve) -> SweepPoint | None:
    """The point with the highest mean accuracy; of equal ones the lowest lambda."""
    judged = [point for point in curve.points if point.accuracy is not None]
    return max(judged, key=lambda p: (p.accuracy.mean, -p.reward_scale), default=None)


def _than_teacher(difference: SeedEstimate) -> str:
    verb = {1: "beats its teacher", 0: "matches its teacher within noise", -1: "is below its teacher"}
    return f"{verb[_sign(difference)]}: {evidence(difference)}"


def evidence(difference: SeedEstimate) -> str:
    """The numbers behind a sentence."""
    seeds = f"{difference.seeds} seed{'s' * (difference.seeds != 1)}"
    return (
        f"{points(difference.mean, plus=True)} points, 95% interval "
        f"{interval(difference.lo, difference.hi)}, n = {difference.problems}, {seeds}"
    )


def _sign(difference: SeedEstimate) -> int:
    return (difference.lo > 0) - (difference.hi < 0)
