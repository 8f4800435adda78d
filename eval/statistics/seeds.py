"""Means over several trainings: intervals that hold for other problems and for other training seeds.

Scores form a table of seeds by problems, both drawn at random and crossed: every seed answers the same
problems. The variance of the mean is the one between problems plus the one between seeds minus what both
count (two-way clustering, Cameron, Gelbach & Miller 2011, doi:10.1198/jbes.2010.07136), and no less than
either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.statistics.intervals import t_p_value, t_quantile

Scores = Mapping[str, Sequence[float]]
"""Scores in [0, 1] of a model's answers, by problem."""


@dataclass(frozen=True)
class SeedEstimate:
    """A mean over seeds and problems, with its 95% interval."""

    mean: float
    lo: float
    hi: float
    seeds: int
    problems: int
    by_seed: tuple[float, ...]
    """Mean of each seed over the problems."""
    p_value: float = 1.0
    """Two-sided, of the hypothesis that the mean is 0; 1 with one problem, which says nothing."""

    @property
    def seed_deviation(self) -> float | None:
        """Standard deviation of the seeds' means; None with one seed, where it is not measured."""
        return float(np.std(self.by_seed, ddof=1)) if self.seeds > 1 else None


def over_seeds(runs: Sequence[Scores]) -> SeedEstimate | None:
    """Mean accuracy of one model trained with several seeds, in [0, 1]; None without a common problem."""
    problems = _common(runs)
    if not problems:
        return None
    table = np.array([[_mean(run[problem]) for problem in problems] for run in runs])
    return _estimate(table, 0.0, 1.0)


def difference_over_seeds(ours: Sequence[Scores], theirs: Sequence[Scores] | Scores) -> SeedEstimate | None:
    """Mean of ours minus theirs, in [-1, 1], paired by problem; None without a common problem.

    `theirs` is one fixed model, or one model for each of our seeds, in the same order: then runs of one seed,
    which share prompts and random numbers, are paired.
    """
    paired = [theirs] * len(ours) if isinstance(theirs, Mapping) else list(theirs)
    assert len(paired) == len(ours), "one model of theirs for each of our seeds"
    problems = _common([*ours, *paired])
    if not problems:
        return None
    table = np.array(
        [[_mean(a[p]) - _mean(b[p]) for p in problems] for a, b in zip(ours, paired, strict=True)]
    )
    return _estimate(table, -1.0, 1.0)


def _common(runs: Sequence[Scores]) -> list[str]:
    """Problems for which every run has scores."""
    return [p for p in runs[0] if all(p in run and len(run[p]) for run in runs)] if runs else []


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _estimate(table: np.ndarray, lowest: float, highest: float) -> SeedEstimate:
    """From a table of scores, [seeds, problems]."""
    seeds, problems = table.shape
    mean, by_seed = float(table.mean()), tuple(float(v) for v in table.mean(1))
    if problems == 1:
        return SeedEstimate(mean, lowest, highest, seeds, problems, by_seed)
    variance, degrees = _variance(table)
    error = math.sqrt(variance)
    half = t_quantile(0.975, degrees) * error
    p_value = t_p_value(mean / error, degrees) if error else float(mean == 0)
    ends = max(lowest, mean - half), min(highest, mean + half)
    return SeedEstimate(mean, *ends, seeds, problems, by_seed, p_value)


def _variance(table: np.ndarray) -> tuple[float, int]:
    """Variance of the mean, and its degrees of freedom (Satterthwaite's, rounded down)."""
    seeds, problems = table.shape
    between_problems = float(table.mean(0).var(ddof=1)) / problems
    if seeds == 1:
        return between_problems, problems - 1
    between_seeds = float(table.mean(1).var(ddof=1)) / seeds
    residual = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    both = float((residual**2).sum()) / ((seeds - 1) * (problems - 1)) / (seeds * problems)
    variance = max(between_problems + between_seeds - both, between_problems, between_seeds)
    spread = between_problems**2 / (problems - 1) + between_seeds**2 / (seeds - 1)
    fewest = min(seeds, problems) - 1  # of two parts together there are no fewer than of one
    return variance, max(fewest, int(variance**2 / spread)) if spread else fewest
