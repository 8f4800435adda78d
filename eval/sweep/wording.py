"""What is concluded from a sweep, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from common.words import counted
from eval.report.sections.trained_lambda import moved
from eval.report.wording import interval, percent, points
from eval.statistics.seeds import SeedEstimate
from eval.sweep.data import SweepCurve, SweepData, SweepPoint


def sentences(data: SweepData) -> list[str]:
    """Two for every benchmark and mode: all lambdas against OPD, and the best one against the teacher. Then
    which students were not trained at their lambda throughout."""
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
                f"{_control(data, curve)}"
            )
    if data.polish_steps:
        found.append(
            f"every student was polished for {data.polish_steps} steps after distillation, that of lambda "
            "1, here called OPD, as well"
        )
    return [*found, *_not_at_their_lambda(data)]


def _control(data: SweepData, curve: SweepCurve) -> str:
    """What a teacher that was trained on as long as the students reaches; empty where there is none."""
    found = [m.name for m in data.models if m.role == "baseline" and m.domain == curve.domain]
    return "".join(
        f"; {name}, this teacher trained on as long, reaches {percent(curve.fixed[name].accuracy)}"
        for name in found
        if name in curve.fixed
    )


def _not_at_their_lambda(data: SweepData) -> list[str]:
    """One sentence for the seeds of a lambda whose domain shares what it was trained at instead."""
    seeds: dict[tuple[float, str, str], list[str]] = {}
    for (scale, seed), trained in data.trained_lambda.items():
        for domain, text in moved(dict.fromkeys(trained, scale), trained).items():
            seeds.setdefault((scale, domain, text), []).append(str(seed))
    return [
        f"lambda {scale:g}, seed {', '.join(found)}: {domain} was trained at lambda {text}"
        for (scale, domain, text), found in seeds.items()
    ]


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
    judged = [(p.accuracy.mean, -p.reward_scale, p) for p in curve.points if p.accuracy is not None]
    return max(judged, key=lambda found: found[:2])[2] if judged else None


def _than_teacher(difference: SeedEstimate) -> str:
    verb = {1: "beats its teacher", 0: "matches its teacher within noise", -1: "is below its teacher"}
    return f"{verb[_sign(difference)]}: {evidence(difference)}"


def evidence(difference: SeedEstimate) -> str:
    """The numbers behind a sentence."""
    return (
        f"{points(difference.mean, plus=True)} points, 95% interval "
        f"{interval(difference.lo, difference.hi)}, n = {difference.problems}, "
        f"{counted(difference.seeds, 'seed')}"
    )


def _sign(difference: SeedEstimate) -> int:
    return (difference.lo > 0) - (difference.hi < 0)
