"""A sweep's results made by hand: two lambdas, two seeds, four problems."""

from __future__ import annotations

from eval.records import Sample, Verdict
from eval.sweep.data import FixedModel, ProbePoint, SweepData, curve


def answers(*right: int, mode="sampled", tokens=10, finished=True, unscored=()):
    """One answer to each problem p0, p1, ..."""
    return [
        Sample(
            "bench", f"p{i}", mode, 0, "question", "answer", tokens, finished,
            Verdict.UNSCORED if i in unscored else Verdict.PASS if value else Verdict.FAIL, "",
        )
        for i, value in enumerate(right)
    ]  # fmt: skip


STUDENTS = {
    (1.0, 0): answers(1, 0, 0, 0), (1.0, 1): answers(1, 1, 0, 0),
    (1.25, 0): answers(1, 1, 1, 0, tokens=14), (1.25, 1): answers(1, 1, 1, 1, tokens=16),
}  # fmt: skip
FIXED = {"base": answers(0, 0, 0, 0), "math-teacher": answers(1, 1, 0, 0)}


def made(**changes) -> SweepData:
    """What a sweep's page is written from; `changes` are fields."""
    values = {
        "name": "demo.sweep",
        "created": "2026-01-01",
        "seeds": (0, 1),
        "reward_scales": (1.0, 1.25),
        "domains": ("math",),
        "models": (FixedModel("base", "base", None), FixedModel("math-teacher", "teacher", "math")),
        "curves": (curve("bench", "math", "sampled", STUDENTS, FIXED, "math-teacher"),),
        "training": {
            key: [{"step": s, "task_reward": key[0] * s, "teacher/math/length": 10.0} for s in (1, 2)]
            for key in STUDENTS
        },
        "probe": (
            ProbePoint("math", 1.0, 0.5, 0.4, 0.6, 20),
            ProbePoint("math", 1.25, 0.7, 0.6, 0.8, 20, (0.9, 0.8, 0.95)),
        ),
        "runs": ("lambda-1.seed-0",),
        "config_yaml": "name: <demo>",
        "wall_seconds": {"merges": 100.0},
    }
    return SweepData(**{**values, **changes})
