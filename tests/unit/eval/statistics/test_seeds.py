"""Intervals over seeds and problems, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.statistics.intervals import t_quantile
from eval.statistics.seeds import difference_over_seeds, over_seeds


def scores(*rows):
    return [{f"p{i}": [value] for i, value in enumerate(row)} for row in rows]


def test_by_hand():
    # two seeds by three problems; means of problems 1, 0.5, 0; of seeds 2/3, 1/3
    found = over_seeds(scores([1, 1, 0], [1, 0, 0]))
    assert (found.mean, found.seeds, found.problems) == (0.5, 2, 3)
    assert found.by_seed == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.seed_deviation == pytest.approx(math.sqrt(2 * (1 / 6) ** 2))
    between_problems, between_seeds = 0.25 / 3, (1 / 18) / 2
    # residuals: -1/6, 1/3, -1/6 and their negatives; sum of squares 1/3; (2-1)(3-1) degrees
    both = (1 / 3) / 2 / 6
    variance = between_problems + between_seeds - both
    degrees = max(1, int(variance**2 / (between_problems**2 / 2 + between_seeds**2 / 1)))
    half = t_quantile(0.975, degrees) * math.sqrt(variance)
    assert found.hi == min(1.0, 0.5 + half)
    assert found.lo == max(0.0, 0.5 - half)


def test_answers_to_one_problem_count_as_their_mean():
    many = over_seeds([{"a": [1, 0, 1, 0], "b": [1]}, {"a": [0.5], "b": [1, 1]}])
    assert many == over_seeds([{"a": [0.5], "b": [1]}, {"a": [0.5], "b": [1]}])


def test_one_seed_has_the_spread_between_problems_only():
    found = over_seeds(scores([1, 0, 1, 1]))
    half = t_quantile(0.975, 3) * math.sqrt(0.25 / 4)
    assert (found.lo, found.hi) == (max(0, 0.75 - half), min(1, 0.75 + half))
    assert found.seed_deviation is None


def test_one_problem_says_nothing():
    found = over_seeds(scores([1], [0]))
    assert (found.mean, found.lo, found.hi) == (0.5, 0.0, 1.0)


def test_problems_that_a_run_lacks_are_left_out():
    assert over_seeds([{"a": [1], "b": [0]}, {"a": [1], "b": []}]).problems == 1
    assert over_seeds([{"a": [1]}, {"b": [1]}]) is None
    assert difference_over_seeds([{"a": [1]}], {"b": [1]}) is None


def test_a_difference_is_paired_by_seed():
    ours, theirs = scores([1, 1], [0, 0]), scores([1, 1], [0, 0])
    same = difference_over_seeds(ours, theirs)
    assert (same.mean, same.lo, same.hi) == (0.0, 0.0, 0.0)
    swapped = difference_over_seeds(ours, theirs[::-1])
    assert swapped.mean == 0.0 and swapped.hi > 0.5


def test_a_difference_from_one_fixed_model():
    found = difference_over_seeds(scores([1, 1, 0], [1, 0, 0]), {"p0": [0], "p1": [0], "p2": [0]})
    assert found.mean == 0.5
    assert found.by_seed == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_other_seeds_widen_the_interval():
    steady = over_seeds(scores(*[[1, 0, 1, 0, 1, 0, 1, 0]] * 3))
    moved = over_seeds(scores([1, 0, 1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 1, 0]))
    assert steady.mean == moved.mean
    assert moved.hi - moved.lo > steady.hi - steady.lo


@pytest.mark.parametrize(
    ("problem_spread", "seed_spread"),
    [(0.3, 0.0), (0.3, 0.05), (0.1, 0.1)],
    ids=["problems", "both", "seeds"],
)
def test_the_interval_covers_the_truth(problem_spread, seed_spread):
    """3 seeds, 60 problems: 95% of the intervals should hold the mean; with 3 seeds they may be wide."""
    rng = np.random.default_rng(0)
    covered, tries = 0, 1000
    for _ in range(tries):
        table = (
            0.5
            + problem_spread * rng.uniform(-1, 1, (1, 60))
            + seed_spread * rng.normal(size=(3, 1))
            + 0.1 * rng.normal(size=(3, 60))
        )
        found = difference_over_seeds(scores(*table), {f"p{i}": [0] for i in range(60)})
        covered += found.lo <= 0.5 <= found.hi
    assert 0.93 <= covered / tries <= 0.98
