"""Intervals and tests for scores of problems with several answers each.

The unit that is drawn at random is the problem: answers to one problem resemble each other, so more
answers to the same problems narrow an interval only down to the spread between problems. Every problem
counts once, whatever the number of its answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
EXACT_PROBLEMS = 13
"""Up to so many problems all sign flips are enumerated."""
MIN_PROBLEMS = 6
"""With fewer problems no paired difference can be told from zero at 95% (2 / 2^5 > 0.05)."""
PRIOR = 0.5
"""Weight of the problem at 0, and of that at 1, that steady the spread between problems."""
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean score with its interval, as fractions."""

    mean: float
    lo: float
    hi: float
    n_samples: int
    n_problems: int


@dataclass(frozen=True)
class Difference:
    """Mean score of `a` minus that of `b` on their common problems, as a fraction."""

    mean: float
    lo: float
    hi: float
    n_problems: int
    p_value: float
    """Two-sided, of the hypothesis that swapping a and b on any problem changes nothing."""
    spread: float = 0.0
    """Standard deviation of the problems' differences; 0 with fewer than two."""


def mean_interval(scores_by_problem: Mapping[str, Sequence[float]], confidence: float = 0.95) -> Estimate:
    """Mean of the problems' mean scores with a Wilson interval, clustered by problem.

    The interval is Wilson's on the effective number of samples: the n for which p(1-p)/n is the variance
    of the mean that the spread between problems shows, with Student's t at (problems - 1) degrees of
    freedom in place of the normal quantile. That n is estimated with half a problem at 0 and at 1
    added, because few problems near 0% or 100% show too little of their spread; where there is none it
    comes out one below the number of problems, as if all answers to a problem agreed. Scores are in
    [0, 1]; problems without scores are left out. Without any score the mean is NaN and the interval [0, 1].
    """
    means = problem_means(scores_by_problem)
    n_samples = sum(len(scores) for scores in scores_by_problem.values())
    n = len(means)
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, 0)
    assert means.min() >= 0.0 and means.max() <= 1.0, "scores are fractions"
    p = float(means.mean())
    if n == 1:
        return Estimate(p, 0.0, 1.0, n_samples, 1)
    effective = min(_effective_number(means), float(n_samples))
    t = t_quantile(0.5 + confidence / 2, n - 1)
    centre = (p + t * t / (2 * effective)) / (1 + t * t / effective)
    half = t / (1 + t * t / effective) * math.sqrt(p * (1 - p) / effective + (t / (2 * effective)) ** 2)
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n_samples, n)


def paired_difference(
    a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]], seed: int
) -> Difference:
    """Mean difference a - b over the common problems, its 95% interval and its p-value.

    The interval is a percentile bootstrap over problems, at levels widened by Student's t and the
    factor sqrt(n / (n - 1)) that the percentile bootstrap lacks for few problems (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789). The p-value is of a sign-flip permutation test, exact up to
    13 problems. With fewer than 6 problems, which cannot show a difference at 95%, the interval is
    [-1, 1]. Without common problems the mean is NaN and p is 1.
    """
    common = [key for key in a if key in b and len(a[key]) and len(b[key])]
    differences = problem_means({k: a[k] for k in common}) - problem_means({k: b[k] for k in common})
    n = len(differences)
    if n == 0:
        return Difference(math.nan, -1.0, 1.0, 0, 1.0)
    rng = np.random.default_rng(seed)
    mean = float(differences.mean())
    p_value = _sign_flip_p(differences, rng)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    if n < MIN_PROBLEMS:
        return Difference(mean, -1.0, 1.0, n, p_value, spread)
    resampled = np.concatenate([differences[index].mean(1) for index in index_chunks(n, rng)])
    tail = tail_level(n)
    lo, hi = np.quantile(resampled, [tail, 1 - tail])
    return Difference(mean, float(lo), float(hi), n, p_value, spread)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in their order (Holm 1979, doi:10.2307/4615733).

    Calling those below 0.05 real is wrong about any of them with probability 0.05 at most, whatever
    their dependence.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _effective_number(means: np.ndarray) -> float:
    """p(1-p) over the variance of the mean of (problems,) means, with PRIOR problems at 0 and 1 added."""
    n = len(means)
    weight = n + 2 * PRIOR
    p = (float(means.sum()) + PRIOR) / weight
    spread = (float(((means - p) ** 2).sum()) + PRIOR * (p * p + (1 - p) ** 2)) / (weight - 1)
    return n * p * (1 - p) / spread


def tail_level(n: int) -> float:
    """Level of a percentile bootstrap's lower end over n problems; see `paired_difference`."""
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(0.975, n - 1))


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def t_p_value(t: float, degrees: int) -> float:
    """Two-sided p-value of a value of Student's t."""
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))


def problem_means(scores_by_problem: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Mean score of each problem that has scores, (problems,)."""
    return np.array([math.fsum(s) / len(s) for s in scores_by_problem.values() if len(s)], dtype=np.float64)


def index_chunks(n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of RESAMPLES draws of n out of n with replacement, (some, n) at a time."""
    rows = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        yield rng.integers(n, size=(min(rows, RESAMPLES - start), n))


def _sign_flip_p(differences: np.ndarray, rng: np.random.Generator) -> float:
    n = len(differences)
    observed = abs(differences.sum()) * (1 - 1e-12) - 1e-12
    if n <= EXACT_PROBLEMS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ differences) >= observed))
    extreme = 0
    rows = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        signs = 1 - 2 * rng.integers(2, size=(min(rows, RESAMPLES - start), n), dtype=np.int8)
        extreme += int(np.sum(np.abs(signs @ differences) >= observed))
    return (extreme + 1) / (RESAMPLES + 1)
