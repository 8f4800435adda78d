"""What is concluded from a sweep, in sentences."""

from __future__ import annotations

from eval.report.wording import interval, points
from eval.seeds import SeedEstimate
from eval.sweep.data import SweepCurve, SweepData, SweepPoint


def sentences(data: SweepData) -> list[str]:
    """For every benchmark: each lambda against OPD, and the most accurate one against the teacher."""
    found = []
    for curve in data.curves:
        where = f"{curve.domain} ({curve.benchmark}, {curve.mode})"
        for point in curve.points:
            if point.against_opd is not None:
                found.append(f"{where}: lambda {point.reward_scale:g} {_than_opd(point.against_opd)}")
        best = most_accurate(curve)
        if best is not None and best.against_teacher is not None:
            found.append(
                f"{where}: the most accurate of these lambdas, {best.reward_scale:g}, "
                f"{_than_teacher(best.against_teacher)}; it was picked on these very problems"
            )
    return found


def most_accurate(curve: SweepCurve) -> SweepPoint | None:
    """The point with the highest mean accuracy; of equal ones the lowest lambda."""
    judged = [point for point in curve.points if point.accuracy is not None]
    return max(judged, key=lambda p: (p.accuracy.mean, -p.reward_scale), default=None)


def _than_opd(difference: SeedEstimate) -> str:
    verb = {1: "beats OPD", 0: "matches OPD within noise", -1: "is below OPD"}[_sign(difference)]
    return f"{verb}: {evidence(difference)}"


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
