"""Everything a sweep's report shows, as frozen records, made from the graded samples of its runs.

Accuracies and differences are in [0, 1] and [-1, 1]. A run is named by (lambda, seed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from eval.report.sections import trained_lambda
from eval.report.sections.trained_lambda import Trained
from eval.statistics.seeds import SeedEstimate, difference_over_seeds, over_seeds

if TYPE_CHECKING:
    from eval.records import Sample
    from eval.statistics.compare import BenchmarkScore
    from eval.statistics.questions import Outcome

OPD_SCALE = 1.0
"""At this lambda ExOPD is plain on-policy distillation."""

RunKey = tuple[float, int]
Curves = Mapping[RunKey, Sequence[Mapping[str, float]]]
"""Metrics of every step of every run."""


@dataclass(frozen=True)
class FixedModel:
    """A model that is the same in all runs: the base, a teacher, a baseline in weight space."""

    name: str
    role: Literal["base", "teacher", "baseline"]
    domain: str | None
    """The domain of a teacher, or of a baseline that is about one domain alone; None for the others."""


@dataclass(frozen=True)
class SweepPoint:
    """The students of one lambda on one benchmark. What no sample tells is None."""

    reward_scale: float
    accuracy: SeedEstimate | None
    against_teacher: SeedEstimate | None
    """Minus the domain's own teacher."""
    against_opd: SeedEstimate | None
    """Minus the student of the same seed at lambda 1; None at lambda 1 and where the grid has no lambda 1."""
    length: float
    """Mean tokens of an answer."""
    finish_rate: float
    unscored: int
    """Answers that could not be judged; left out of the accuracies."""


Place = tuple[str, str, float, str]
"""Benchmark, mode, lambda, and `opd` or `teacher`."""


@dataclass(frozen=True)
class Judged:
    """A difference with what it shows among all comparisons of the sweep."""

    estimate: SeedEstimate
    p_adjusted: float
    outcome: Outcome


@dataclass(frozen=True)
class SweepCurve:
    """One benchmark in one mode: accuracy against lambda, and the models that do not depend on it."""

    benchmark: str
    domain: str
    mode: Literal["sampled", "greedy"]
    points: tuple[SweepPoint, ...]
    fixed: Mapping[str, BenchmarkScore]
    """Scores of the fixed models by name."""


@dataclass(frozen=True)
class ProbePoint:
    """The objective's optimum at one lambda, on the probe's own prompts."""

    domain: str
    reward_scale: float
    accuracy: float
    lo: float
    hi: float
    prompts: int
    greedy: tuple[float, float, float] | None = None
    """Accuracy of the likeliest answers and its 95% interval; None where an earlier version has probed."""


@dataclass(frozen=True)
class SweepData:
    """The whole report of a sweep."""

    name: str
    created: str
    seeds: tuple[int, ...]
    reward_scales: tuple[float, ...]
    domains: tuple[str, ...]
    models: tuple[FixedModel, ...]
    curves: tuple[SweepCurve, ...]
    training: Curves = field(default_factory=dict)
    probe: tuple[ProbePoint, ...] = ()
    runs: tuple[str, ...] = ()
    """Folders of the runs, below the sweep's."""
    trained_lambda: Mapping[RunKey, Trained] = field(default_factory=dict)
    """The lambda that each domain of each run was trained at: a back-off takes it away from the grid's."""
    margin: float = 0.02
    """Difference that does not matter, in [0, 1]."""
    polish_steps: int = 0
    """Steps of the polish of every student; 0 without one."""
    config_yaml: str = ""
    wall_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def teacher_of(self, domain: str) -> str | None:
        """Name of the domain's own teacher."""
        return next((m.name for m in self.models if m.role == "teacher" and m.domain == domain), None)

    @cached_property
    def judged(self) -> Mapping[Place, Judged]:
        """Every comparison of the page: one family, corrected by Holm."""
        from eval.statistics.intervals import holm
        from eval.statistics.questions import outcome

        compared: dict[Place, SeedEstimate] = {}
        for curve in self.curves:
            for point in curve.points:
                for other, estimate in (("opd", point.against_opd), ("teacher", point.against_teacher)):
                    if estimate is not None:
                        compared[curve.benchmark, curve.mode, point.reward_scale, other] = estimate
        adjusted = holm([estimate.p_value for estimate in compared.values()])
        return {
            place: Judged(found, p, outcome(found.mean, found.lo, found.hi, p, self.margin))
            for (place, found), p in zip(compared.items(), adjusted, strict=True)
        }


def curve(
    benchmark: str,
    domain: str,
    mode: Literal["sampled", "greedy"],
    students: Mapping[RunKey, Sequence[Sample]],
    fixed: Mapping[str, Sequence[Sample]],
    teacher: str | None,
) -> SweepCurve:
    """One benchmark's curve from the answers of every run's student and of the models that do not change.

    Answers of other modes are left out. `teacher` names the domain's own among `fixed`.
    """
    from eval.statistics.compare import summarise

    own = {key: [s for s in samples if s.mode == mode] for key, samples in students.items()}
    others = {name: [s for s in samples if s.mode == mode] for name, samples in fixed.items()}
    teacher_scores = _scores(others[teacher]) if teacher is not None and others.get(teacher) else None
    by_scale = {
        scale: {seed: own[s, seed] for s, seed in sorted(own) if s == scale}
        for scale in sorted({scale for scale, _ in own})
    }
    opd = by_scale.get(OPD_SCALE)
    points = [
        _point(scale, answers, teacher_scores, None if scale == OPD_SCALE else opd)
        for scale, answers in by_scale.items()
    ]
    scores = {name: summarise(answers) for name, answers in others.items() if answers}
    return SweepCurve(benchmark, domain, mode, tuple(points), scores)


def _point(
    scale: float,
    answers: Mapping[int, Sequence[Sample]],
    teacher: Mapping[str, Sequence[float]] | None,
    opd: Mapping[int, Sequence[Sample]] | None,
) -> SweepPoint:
    every = [sample for run in answers.values() for sample in run]
    ours = [_scores(run) for run in answers.values()]
    paired = [(_scores(answers[seed]), _scores(opd[seed])) for seed in answers if seed in opd] if opd else []
    return SweepPoint(
        reward_scale=scale,
        accuracy=over_seeds(ours),
        against_teacher=None if teacher is None else difference_over_seeds(ours, teacher),
        against_opd=difference_over_seeds(*map(list, zip(*paired, strict=True))) if paired else None,
        length=sum(sample.tokens for sample in every) / len(every),
        finish_rate=sum(sample.finished for sample in every) / len(every),
        unscored=sum(sample.verdict == "unscored" for sample in every),
    )


def _scores(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Scores of the judged answers by problem."""
    scores: dict[str, list[float]] = {}
    for sample in samples:
        if sample.verdict != "unscored":
            scores.setdefault(sample.problem_id, []).append(float(sample.verdict == "pass"))
    return scores


def mean_metric(training: Curves, reward_scale: float, metric: str) -> tuple[list[float], list[float]]:
    """Steps and the metric's mean over the seeds of one lambda, where all of them have it."""
    rows = [
        {row["step"]: row for row in run} for (scale, _), run in training.items() if scale == reward_scale
    ]
    steps = [step for step in (rows[0] if rows else ()) if all(metric in run.get(step, {}) for run in rows)]
    return steps, [sum(run[step][metric] for run in rows) / len(rows) for step in steps]


def to_json(data: SweepData) -> dict[str, Any]:
    """Plain values; null for what was not measured."""
    return {
        "sweep": data.name,
        "created": data.created,
        "seeds": list(data.seeds),
        "reward_scales": list(data.reward_scales),
        "margin": data.margin,
        "curves": [
            {
                "benchmark": c.benchmark,
                "domain": c.domain,
                "mode": c.mode,
                "points": [_point_json(data, c, p) for p in c.points],
                "fixed": {
                    name: {"accuracy": s.accuracy, "interval": [s.lo, s.hi], "n": s.n, "unscored": s.unscored}
                    for name, s in c.fixed.items()
                },
            }
            for c in data.curves
        ],
        "probe": [vars(point) for point in data.probe],
        "runs": list(data.runs),
        "trained": [
            {"reward_scale": scale, "seed": seed, "domains": trained_lambda.to_json(trained)}
            for (scale, seed), trained in data.trained_lambda.items()
        ],
        "wall_seconds": dict(data.wall_seconds),
        "peak_memory_bytes": data.peak_memory_bytes,
        "provenance": dict(data.provenance),
    }


def _point_json(data: SweepData, curve: SweepCurve, point: SweepPoint) -> dict[str, Any]:
    def compared(other: str) -> dict[str, Any] | None:
        judged = data.judged.get((curve.benchmark, curve.mode, point.reward_scale, other))
        if judged is None:
            return None
        found = _estimate_json(judged.estimate) or {}
        p_value = judged.estimate.p_value
        return found | {"p_value": p_value, "p_adjusted": judged.p_adjusted, "verdict": judged.outcome}

    return {
        "reward_scale": point.reward_scale,
        "accuracy": _estimate_json(point.accuracy),
        "against_teacher": compared("teacher"),
        "against_opd": compared("opd"),
        "mean_tokens": point.length,
        "finish_rate": point.finish_rate,
        "unscored": point.unscored,
    }


def _estimate_json(estimate: SeedEstimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "mean": estimate.mean,
        "interval": [estimate.lo, estimate.hi],
        "seeds": estimate.seeds,
        "problems": estimate.problems,
        "by_seed": list(estimate.by_seed),
        "seed_deviation": estimate.seed_deviation,
    }
