"""What is concluded from a sweep, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from common.words import counted
from eval.report.sections.trained_lambda import moved
from eval.report.wording import OUTCOMES, claim, interval, p_text, percent, points
from eval.sweep.data import Judged, SweepCurve, SweepData, SweepPoint


def sentences(data: SweepData) -> list[str]:
    """Two for every benchmark and mode: all lambdas against OPD, and the best one against the teacher. Then
    which students were not trained at their lambda throughout."""
    found = []
    for curve in data.curves:
        where = f"{curve.domain} ({curve.benchmark}, {curve.mode})"
        compared = {
            p.reward_scale: judged
            for p in curve.points
            if (judged := data.judged.get((curve.benchmark, curve.mode, p.reward_scale, "opd")))
        }
        if compared:
            found.append(f"{where}: {_against_opd(compared)}")
        best = most_accurate(curve)
        place = (curve.benchmark, curve.mode, best.reward_scale if best else 0.0, "teacher")
        if best is not None and place in data.judged:
            judged = data.judged[place]
            who = f"the most accurate of these lambdas, {best.reward_scale:g},"
            found.append(
                f"{where}: {claim(who, judged.outcome, 'its teacher')}: {evidence(judged)}; it was picked on "
                f"these very problems{_control(data, curve)}"
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


def _against_opd(compared: Mapping[float, Judged]) -> str:
    """Which lambdas beat lambda 1, which are below it, which are level, and which are not decided."""
    by_outcome = {
        outcome: [scale for scale, judged in compared.items() if judged.outcome == outcome]
        for outcome in OUTCOMES
    }
    parts = [
        claim(f"lambda {scale:g}", outcome, "OPD") + f": {evidence(compared[scale])}"
        for outcome in OUTCOMES
        for scale in by_outcome[outcome]
        if outcome != "not decided"
    ]
    if not by_outcome["beats"]:
        parts.insert(0, "no lambda is shown to beat OPD")
    if undecided := by_outcome["not decided"]:
        scales = ", ".join(f"{scale:g}" for scale in undecided)
        ends = [(compared[s].estimate.lo, compared[s].estimate.hi) for s in undecided]
        widest = max(abs(end) for pair in ends for end in pair)
        parts.append(f"not decided: lambda {scales} (intervals within {points(widest)} points)")
    return "; ".join(parts)


def most_accurate(curve: SweepCurve) -> SweepPoint | None:
    """The point with the highest mean accuracy; of equal ones the lowest lambda."""
    judged = [(p.accuracy.mean, -p.reward_scale, p) for p in curve.points if p.accuracy is not None]
    return max(judged, key=lambda found: found[:2])[2] if judged else None


def evidence(judged: Judged) -> str:
    """The numbers behind a sentence."""
    found = judged.estimate
    return (
        f"{points(found.mean, plus=True)} points, 95% interval {interval(found.lo, found.hi)}, "
        f"n = {found.problems}, {counted(found.seeds, 'seed')}, adjusted {p_text(judged.p_adjusted)}"
    )
