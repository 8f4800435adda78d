"""Outcomes, deciding numbers and the intersection, by hand and by identities."""

from __future__ import annotations

import math

import pytest

from eval.statistics.intervals import paired_difference, t_quantile
from eval.statistics.questions import MOST_PROBLEMS, deciding_problems, intersection_p, outcome

MARGIN = 0.02


@pytest.mark.parametrize(
    ("difference", "lo", "hi", "p_adjusted", "expected"),
    [
        (0.05, 0.01, 0.09, 0.05, "beats"),
        (-0.05, -0.09, -0.01, 0.049, "below"),
        (0.05, 0.01, 0.09, 0.051, "not decided"),  # its own interval leaves out 0: the family's p decides
        (0.001, -0.018, 0.02, 0.9, "level"),
        (0.001, -0.018, 0.0201, 0.9, "not decided"),
        (0.001, -0.0201, 0.018, 0.9, "not decided"),
        (0.0, 0.0, 0.0, 1.0, "level"),
        (0.01, 0.002, 0.018, 0.01, "beats"),  # a small difference that is certain has a direction
        (0.5, -1.0, 1.0, 0.06, "not decided"),
    ],
)
def test_outcomes(difference, lo, hi, p_adjusted, expected):
    assert outcome(difference, lo, hi, p_adjusted, MARGIN) == expected


def test_swapping_the_models_swaps_beats_and_below_and_nothing_else():
    swapped = {"beats": "below", "below": "beats", "level": "level", "not decided": "not decided"}
    for d in (-0.05, -0.01, 0.01, 0.05):
        for half in (0.005, 0.03):
            for p in (0.01, 0.3):
                ours = outcome(d, d - half, d + half, p, MARGIN)
                assert outcome(-d, -d - half, -d + half, p, MARGIN) == swapped[ours]


def test_a_larger_margin_never_undoes_level():
    found = [outcome(0.004, -0.011, 0.019, 0.6, margin) for margin in (0.01, 0.018, 0.019, 0.02, 0.5)]
    assert found == ["not decided", "not decided", "level", "level", "level"]


# ------------------------------------------------------------------------ how many problems decide


def test_the_number_that_makes_a_difference_significant():
    """0.05 at a spread of 0.5 is 0.1 of a spread: with one question about (1.96 / 0.1)^2 = 384 problems."""
    found = deciding_problems(0.05, 0.5, 100, 1, MARGIN)
    assert found == 387  # t in place of 1.96
    assert 0.05 * math.sqrt(found) >= 0.5 * t_quantile(0.975, found - 1)
    assert 0.05 * math.sqrt(found - 1) < 0.5 * t_quantile(0.975, found - 2)
    assert deciding_problems(-0.05, 0.5, 100, 1, MARGIN) == found
    eight = deciding_problems(0.05, 0.5, 100, 8, MARGIN)
    assert eight == pytest.approx((t_quantile(1 - 0.05 / 16, 750) / 0.1) ** 2, abs=2) and eight > found


def test_the_number_that_makes_an_interval_fit():
    """No difference, spread 0.2, margin 0.02: about (1.96 x 0.2 / 0.02)^2 = 384 problems."""
    found = deciding_problems(0.0, 0.2, 100, 8, MARGIN)
    assert found == 387
    assert t_quantile(0.975, found - 1) * 0.2 / math.sqrt(found) <= MARGIN
    assert deciding_problems(0.0, 0.4, 100, 8, MARGIN) == pytest.approx(4 * 384, abs=4)


def test_the_smaller_of_both_is_named():
    near = deciding_problems(0.019, 0.2, 100, 1, MARGIN)  # 0.001 is left to the margin: significance first
    assert near == pytest.approx((1.96 * 0.2 / 0.019) ** 2, abs=4)
    little = deciding_problems(0.001, 0.2, 100, 1, MARGIN)  # significance would take 150,000
    assert little == pytest.approx((1.96 * 0.2 / 0.019) ** 2, abs=4)


def test_beyond_the_cap_and_below_what_there_is():
    assert deciding_problems(0.001, 0.5, 50, 8, 0.002) is None, "about 1.4 million each way"
    assert deciding_problems(0.0, 0.5, 50, 8, 0.002) is None, "about 240,000"
    assert deciding_problems(0.3, 0.3, MOST_PROBLEMS, 1, MARGIN) is None
    assert deciding_problems(0.05, 0.5, 390, 1, MARGIN) == 391, "these did not decide it: more are needed"
    # of one sign: 2 / 2^n at most 0.05 / 8 from 9 problems on, and an interval from 6 on
    assert deciding_problems(1.0, 0.0, 3, 8, MARGIN) == 9
    assert deciding_problems(0.0, 0.0, 3, 8, MARGIN) == 6


def test_nine_problems_of_one_sign_are_significant_among_eight_questions():
    a, b = {str(i): [1.0] for i in range(9)}, {str(i): [0.0] for i in range(9)}
    assert paired_difference(a, b, 0).p_value <= 0.05 / 8
    fewer = {key: a[key] for key in list(a)[:8]}
    assert paired_difference(fewer, b, 0).p_value > 0.05 / 8


def test_repeating_every_problem_decides_when_the_number_says():
    """The same differences, so many times over: significant at the number, not well below it."""
    ours = [1, 1, 1, 0, 0, 1, 0, 1, 0, 0] * 3
    theirs = [1, 0, 1, 0, 1, 0, 0, 1, 0, 0] * 3

    def repeated(times):
        keys = [f"{i}.{k}" for k in range(times) for i in range(len(ours))]
        sides = [{key: [float(side[int(key.split(".")[0])])] for key in keys} for side in (ours, theirs)]
        return paired_difference(*sides, seed=0)

    once = repeated(1)
    needed = deciding_problems(once.mean, once.spread, once.n_problems, 1, 0.001)
    assert once.p_value > 0.05
    assert repeated(math.ceil(1.2 * needed / 30)).p_value <= 0.05
    assert repeated(int(0.7 * needed / 30)).p_value > 0.05


# --------------------------------------------------------------------------------- the intersection


def test_the_intersection_is_as_weak_as_its_weakest_part():
    assert intersection_p([(0.1, 0.001), (0.02, 0.04), (0.3, 0.002)]) == 0.04
    assert intersection_p([(0.1, 0.001)]) == 0.001


def test_one_difference_that_is_not_above_0_ends_it():
    assert intersection_p([(0.1, 0.001), (-0.2, 0.001)]) == 1.0
    assert intersection_p([(0.1, 0.001), (0.0, 0.9)]) == 1.0
