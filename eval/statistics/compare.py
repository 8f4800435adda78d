"""From judged samples to scores and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval.records import Sample, Verdict
from eval.statistics.intervals import mean_interval, paired_difference
from eval.statistics.shares import Recovery, Sides, WorstShare, macro_share, recovery, worst_share


@dataclass(frozen=True)
class BenchmarkScore:
    """One model on one benchmark. What no sample tells is None."""

    accuracy: float | None
    """Mean over problems of the fraction of right answers."""
    lo: float | None
    hi: float | None
    """95% interval, clustered by problem."""
    n: int
    """Judged samples."""
    problems: int
    """Problems with a judged sample."""
    unscored: int
    """Samples that could not be judged; left out of everything about correctness."""
    finish_rate: float | None
    """Fraction of all samples that ended before the length limit."""
    mean_tokens: float | None
    """Mean length of all samples."""
    accuracy_when_finished: float | None
    """Fraction of right answers among the judged samples that finished. An unfinished one is wrong, so times
    `finish_rate` it is the accuracy where every sample was judged."""


@dataclass(frozen=True)
class Comparison:
    """The student against another model on the same problems."""

    difference: float
    """Student's accuracy minus the other's."""
    lo: float
    hi: float
    """95% interval of the difference."""
    n: int
    """Common problems with judged answers of both."""
    p_value: float
    spread: float
    """Standard deviation of the problems' differences."""
    unscored: int
    """Samples of either side that were left out, with their partners on the other side."""


def summarise(samples: Sequence[Sample]) -> BenchmarkScore:
    """The score of one model's samples on one benchmark."""
    judged = [sample for sample in samples if sample.verdict != Verdict.UNSCORED]
    finished = [sample for sample in judged if sample.finished]
    estimate = mean_interval(_scores(judged))
    return BenchmarkScore(
        accuracy=estimate.mean if judged else None,
        lo=estimate.lo if judged else None,
        hi=estimate.hi if judged else None,
        n=len(judged),
        problems=estimate.n_problems,
        unscored=len(samples) - len(judged),
        finish_rate=_mean(sample.finished for sample in samples),
        mean_tokens=_mean(sample.tokens for sample in samples),
        accuracy_when_finished=_mean(sample.verdict == Verdict.PASS for sample in finished),
    )


def compare(student_samples: Sequence[Sample], other_samples: Sequence[Sample], seed: int) -> Comparison:
    """The student's accuracy minus the other model's, paired by problem.

    A sample that could not be judged is left out together with the other model's sample of the same
    problem, mode and index. `seed` is that of the bootstrap.
    """
    ours, theirs = _judged_together(student_samples, other_samples)
    result = paired_difference(_scores(ours), _scores(theirs), seed)
    return Comparison(
        difference=result.mean,
        lo=result.lo,
        hi=result.hi,
        n=result.n_problems,
        p_value=result.p_value,
        spread=result.spread,
        unscored=len(student_samples) + len(other_samples) - len(ours) - len(theirs),
    )


def recover(
    student: Sequence[Sample], teacher: Sequence[Sample], base: Sequence[Sample], seed: int
) -> Recovery | None:
    """How much of the way from base to teacher the student has come; None without a common judged problem.

    A sample that could not be judged is left out with its partners, as in `compare`.
    """
    model, upper, lower = (_scores(side) for side in _judged_together(student, teacher, base))
    found = recovery(model, upper, lower, seed)
    return found if found.n_problems else None


def recover_over(
    domains: Mapping[str, Sequence[Sequence[Sample]]], seed: int
) -> tuple[Recovery | None, WorstShare | None]:
    """The share of the way over all domains together, and the smallest of the domains' shares.

    `domains` holds the samples of student, teacher and base by domain, judged together as in `recover`; what
    `macro_share` and `worst_share` do not give is None.
    """
    scored: dict[str, Sides] = {}
    for domain, sides in domains.items():
        student, teacher, base = (_scores(side) for side in _judged_together(*sides))
        scored[domain] = student, teacher, base
    return macro_share(scored, seed), worst_share(scored, seed)


def _judged_together(*sides: Sequence[Sample]) -> list[list[Sample]]:
    """Each side without the samples that could not be judged on one of them."""
    unscored = {_key(s) for side in sides for s in side if s.verdict == Verdict.UNSCORED}
    return [[sample for sample in side if _key(sample) not in unscored] for side in sides]


def _key(sample: Sample) -> tuple[str, str, str, int]:
    return sample.benchmark, sample.problem_id, sample.mode, sample.index


def _scores(samples: Iterable[Sample]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for sample in samples:
        scores.setdefault(sample.problem_id, []).append(float(sample.verdict == Verdict.PASS))
    return scores


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
