"""How far one model has come from a lower one to an upper one, in one domain and over several.

Problems are drawn at random within each domain; the domains are fixed: the intervals say nothing of other
domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.statistics.intervals import MIN_PROBLEMS, index_chunks, problem_means, tail_level

Scores = Mapping[str, Sequence[float]]
"""Scores in [0, 1] of a model's answers, by problem."""
Sides = tuple[Scores, Scores, Scores]
"""The model, the upper and the lower one, on the problems of one domain."""


@dataclass(frozen=True)
class Recovery:
    """How far one model has come from a lower one to an upper one, on the problems common to all three."""

    ratio: float | None
    lo: float | None
    hi: float | None
    """(model - lower) / (upper - lower), 1 at the upper model; None where `gap_lo` is not above 0."""
    gap: float
    gap_lo: float
    gap_hi: float
    """Mean score of the upper model minus the lower one's, as a fraction."""
    n_problems: int


@dataclass(frozen=True)
class WorstShare:
    """The smallest of several domains' shares of the way, 1 at the upper model, with its 95% interval."""

    ratio: float | None
    lo: float | None
    hi: float | None
    """None where a domain is unclear."""
    domain: str | None
    """Whose share it is."""
    unclear: tuple[str, ...] = ()
    """Domains whose upper model is not clearly above the lower one."""


@dataclass(frozen=True)
class _Draws:
    """Resampled means of one domain, or of several together."""

    gain: float
    gap: float
    gains: np.ndarray
    gaps: np.ndarray
    """(resamples,): model minus lower, and upper minus lower."""
    n: int
    """Problems; of several domains those of the smallest."""

    @property
    def gap_ends(self) -> tuple[float, float]:
        return _outer_quantiles(self.gaps, tail_level(self.n))

    @property
    def ratios(self) -> np.ndarray:
        # Where a resampled gap is not positive, the ratio is beyond any number. There are fewer of these than
        # either tail holds wherever the lower end of the gap is positive, so both ends are finite.
        positive = self.gaps > 0
        return np.where(
            positive, self.gains / np.where(positive, self.gaps, 1.0), np.copysign(np.inf, self.gains)
        )


def recovery(model: Scores, upper: Scores, lower: Scores, seed: int) -> Recovery:
    """(model - lower) / (upper - lower) over the common problems, with its 95% interval.

    Both differences are resampled together, over problems, at the levels of `paired_difference`. A ratio to
    a gap that may be 0 or less says nothing and is None: then, and with fewer than 6 problems, only the
    gap is given. Without common problems the gap is NaN.
    """
    gains, gaps = _differences((model, upper, lower))
    n = len(gains)
    if n < MIN_PROBLEMS:
        return Recovery(None, None, None, float(gaps.mean()) if n else math.nan, -1.0, 1.0, n)
    return _recovered(_drawn(gains, gaps, np.random.default_rng(seed)))


def macro_share(domains: Mapping[str, Sides], seed: int) -> Recovery | None:
    """The share of the way from the lower models' mean over domains to the upper models' mean over domains.

    Every domain counts once, whatever its problems. It is the mean of the domains' own shares, weighted by
    their gaps, so one domain without a gap does not spoil it; None where a domain has fewer than 6 common
    problems.
    """
    drawn = _all_drawn(domains, seed)
    if not drawn:
        return None
    together = _Draws(
        gain=math.fsum(d.gain for d in drawn) / len(drawn),
        gap=math.fsum(d.gap for d in drawn) / len(drawn),
        gains=np.mean([d.gains for d in drawn], axis=0),
        gaps=np.mean([d.gaps for d in drawn], axis=0),
        n=min(d.n for d in drawn),
    )
    return _recovered(together)


def worst_share(domains: Mapping[str, Sides], seed: int) -> WorstShare | None:
    """The smallest of the domains' shares of the way; None where a domain has fewer than 6 common problems.

    It is given where every domain's gap is clearly above 0. The smallest of several noisy shares lies below
    the smallest true one on average: it errs on the side of caution.
    """
    drawn = dict(zip(domains, _all_drawn(domains, seed), strict=False))
    if not drawn:
        return None
    if unclear := tuple(domain for domain, each in drawn.items() if each.gap_ends[0] <= 0):
        return WorstShare(None, None, None, None, unclear)
    shares = {domain: each.gain / each.gap for domain, each in drawn.items()}
    worst = min(shares, key=lambda domain: shares[domain])
    smallest = np.min([each.ratios for each in drawn.values()], axis=0)
    lo, hi = _outer_quantiles(smallest, tail_level(min(each.n for each in drawn.values())))
    return WorstShare(shares[worst], lo, hi, worst)


def _recovered(drawn: _Draws) -> Recovery:
    gap_lo, gap_hi = drawn.gap_ends
    if gap_lo <= 0:
        return Recovery(None, None, None, drawn.gap, gap_lo, gap_hi, drawn.n)
    lo, hi = _outer_quantiles(drawn.ratios, tail_level(drawn.n))
    return Recovery(drawn.gain / drawn.gap, lo, hi, drawn.gap, gap_lo, gap_hi, drawn.n)


def _all_drawn(domains: Mapping[str, Sides], seed: int) -> list[_Draws]:
    """Of every domain, independently; empty where one has too few problems."""
    rng = np.random.default_rng(seed)
    differences = [_differences(sides) for sides in domains.values()]
    if any(len(gains) < MIN_PROBLEMS for gains, _ in differences):
        return []
    return [_drawn(gains, gaps, rng) for gains, gaps in differences]


def _differences(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Model minus lower and upper minus lower, by common problem."""
    common = [key for key in sides[0] if all(key in scores and len(scores[key]) for scores in sides)]
    ours, above, below = (problem_means({key: scores[key] for key in common}) for scores in sides)
    return ours - below, above - below


def _drawn(gains: np.ndarray, gaps: np.ndarray, rng: np.random.Generator) -> _Draws:
    parts = [(gains[index].mean(1), gaps[index].mean(1)) for index in index_chunks(len(gains), rng)]
    gain, gap = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Draws(float(gains.mean()), float(gaps.mean()), gain, gap, len(gains))


def _outer_quantiles(values: np.ndarray, tail: float) -> tuple[float, float]:
    """The values at both tails, never one between two: these may be infinite."""
    lo = np.quantile(values, tail, method="lower")
    return float(lo), float(np.quantile(values, 1 - tail, method="higher"))
