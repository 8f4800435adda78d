"""Intervals cover what they claim; differences and p-values match hand-computed values."""

import math
import time

import numpy as np
import pytest

from eval.statistics import intervals as statistics
from eval.statistics.intervals import holm, mean_interval, paired_difference, t_p_value, t_quantile


def scores(passes, n):
    return {str(i): [1.0] * int(k) + [0.0] * (n - int(k)) for i, k in enumerate(passes)}


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (29, 2.0452), (100, 1.9840)]
)
def test_t_quantile(degrees, value):
    assert t_quantile(0.975, degrees) == pytest.approx(value, abs=1e-4)


def test_the_p_value_of_t_inverts_its_quantile():
    for degrees in (1, 5, 184):
        assert t_p_value(t_quantile(0.975, degrees), degrees) == pytest.approx(0.05)
        assert t_p_value(-t_quantile(0.975, degrees), degrees) == pytest.approx(0.05)
    assert t_p_value(0.0, 3) == 1.0
    assert t_p_value(1.0, 1) == pytest.approx(0.5)  # Cauchy: arctan(1) is an eighth of a turn


def test_mean_counts_every_problem_once():
    estimate = mean_interval({"a": [1.0, 1.0, 1.0], "b": [0.0], "c": []})
    assert (estimate.mean, estimate.n_samples, estimate.n_problems) == (0.5, 4, 2)


def test_at_the_ends_the_interval_is_wilsons_for_the_number_of_problems():
    t2, effective = t_quantile(0.975, 29) ** 2, 30 * 30 / 31
    none, every = mean_interval(scores([0] * 30, 8)), mean_interval(scores([8] * 30, 8))
    assert none.lo == 0.0 and none.hi == pytest.approx(t2 / (effective + t2))
    assert every.hi == 1.0 and every.lo == pytest.approx(1 - none.hi)


def test_answers_that_agree_are_worth_one():
    one, many = mean_interval(scores([0, 1] * 15, 1)), mean_interval(scores([0, 32] * 15, 32))
    assert (one.lo, one.hi) == pytest.approx((many.lo, many.hi))
    spread = mean_interval(scores([16] * 30, 32))
    assert spread.hi - spread.lo < (one.hi - one.lo) / 3


def test_without_scores_nothing_is_known():
    estimate = mean_interval({})
    assert math.isnan(estimate.mean) and (estimate.lo, estimate.hi) == (0.0, 1.0)
    assert (mean_interval({"a": [1.0]}).lo, mean_interval({"a": [1.0]}).hi) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("problems", "n", "a", "b", "most"),
    [(100, 8, 1, 1, 0.97), (164, 32, 0.3, 0.3, 0.97), (378, 4, 2, 1, 0.97), (30, 32, 0.4, 0.6, 0.975),
     (30, 1, 1, 1, 0.975), (30, 32, 0.2, 2, 0.995)],
)  # fmt: skip
def test_coverage_of_the_mean(problems, n, a, b, most):
    """95% intervals over problems whose pass rates are Beta(a, b); rare passes make them cautious."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1500):
        estimate = mean_interval(scores(rng.binomial(n, rng.beta(a, b, problems)), n))
        hits += estimate.lo <= a / (a + b) <= estimate.hi
    assert 0.93 <= hits / 1500 <= most


def test_coverage_of_the_difference():
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(400):
        p = rng.beta(1, 1, 30)
        shifted = p + 0.1 * (1 - 2 * p) * rng.integers(0, 2, 30)
        truth = 0.0  # (1 - 2p) is symmetric around 0 for p uniform
        a, b = scores(rng.binomial(8, shifted), 8), scores(rng.binomial(8, p), 8)
        difference = paired_difference(a, b, seed)
        hits += difference.lo <= truth <= difference.hi
    assert 0.92 <= hits / 400 <= 0.98


def test_both_intervals_cover_between_93_and_97_percent(monkeypatch):
    """Over 1200 draws of 60 problems with 4 answers; the standard error of the coverages is 0.6 points."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(5)
    means = differences = 0
    for seed in range(1200):
        easy = rng.beta(2, 2, 60)
        a = scores(rng.binomial(4, 0.2 + 0.8 * easy), 4)  # 60% on average, b 50%
        b = scores(rng.binomial(4, easy), 4)
        estimate, difference = mean_interval(a), paired_difference(a, b, seed)
        means += estimate.lo <= 0.6 <= estimate.hi
        differences += difference.lo <= 0.1 <= difference.hi
    assert 0.93 <= means / 1200 <= 0.97
    assert 0.93 <= differences / 1200 <= 0.97


def test_difference_uses_common_problems_only():
    a = {"x": [1.0, 0.0], "y": [1.0], "only a": [1.0], "empty": []}
    b = {"y": [0.0], "x": [0.0], "only b": [0.0], "empty": [1.0]}
    difference = paired_difference(a, b, seed=0)
    assert (difference.mean, difference.n_problems) == (0.75, 2)


def test_sign_flip_p_value_by_enumeration():
    """Six differences of one sign: 2 of the 2^6 sign patterns are as extreme."""
    a, b = scores([1] * 6, 1), scores([0] * 6, 1)
    difference = paired_difference(a, b, seed=0)
    assert difference.p_value == pytest.approx(2 / 64)
    assert (difference.lo, difference.hi) == (1.0, 1.0)


@pytest.mark.parametrize("n", [6, 9, 13])
def test_sign_flip_p_value_against_scipy(n):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(n)
    ours, theirs = rng.binomial(4, 0.6, n), rng.binomial(4, 0.4, n)
    expected = stats.permutation_test(
        (ours / 4, theirs / 4), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    p_value = paired_difference(scores(ours, 4), scores(theirs, 4), seed=0).p_value
    assert p_value == pytest.approx(expected.pvalue)


def test_drawn_sign_flips_approach_the_exact_p_value(monkeypatch):
    rng = np.random.default_rng(6)
    a, b = scores(rng.binomial(4, 0.6, 13), 4), scores(rng.binomial(4, 0.4, 13), 4)
    exact = paired_difference(a, b, seed=0).p_value
    monkeypatch.setattr(statistics, "EXACT_PROBLEMS", 0)
    assert paired_difference(a, b, seed=0).p_value == pytest.approx(exact, abs=0.02)  # 4 standard errors


def test_few_problems_show_nothing():
    difference = paired_difference(scores([1] * 5, 1), scores([0] * 5, 1), seed=0)
    assert (difference.mean, difference.lo, difference.hi) == (1.0, -1.0, 1.0)
    assert difference.p_value == pytest.approx(2 / 32)


def test_equal_models_do_not_differ():
    same = scores([0, 3, 8] * 10, 8)
    difference = paired_difference(same, same, seed=0)
    assert (difference.mean, difference.lo, difference.hi, difference.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_without_common_problems():
    difference = paired_difference({"a": [1.0]}, {"b": [1.0]}, seed=0)
    assert math.isnan(difference.mean) and difference.n_problems == 0 and difference.p_value == 1.0


def test_seed_decides_and_swapping_mirrors():
    rng = np.random.default_rng(3)
    a, b = scores(rng.binomial(8, 0.6, 40), 8), scores(rng.binomial(8, 0.4, 40), 8)
    first, again, swapped = paired_difference(a, b, 7), paired_difference(a, b, 7), paired_difference(b, a, 7)
    assert first == again
    assert (swapped.lo, swapped.hi) == pytest.approx((-first.hi, -first.lo))
    assert first.lo > 0 and first.p_value < 0.001


def test_a_large_benchmark_is_fast():
    rng = np.random.default_rng(4)
    a, b = scores(rng.binomial(32, 0.6, 542), 32), scores(rng.binomial(32, 0.6, 542), 32)
    started = time.process_time()
    paired_difference(a, b, 0)
    assert time.process_time() - started < 2.0


# ---------------------------------------------------------------------------------------- correction


def test_holm_by_hand():
    """In rising order 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, and none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03] and holm([]) == []


def test_holm_against_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(7).beta(0.3, 1, 40)
    assert holm(list(p_values)) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_holm_is_rarely_wrong_about_any_of_many():
    rng = np.random.default_rng(8)
    wrong = sum(min(holm(list(rng.random(20)))) <= 0.05 for _ in range(2000))
    assert wrong / 2000 == pytest.approx(0.05, abs=0.015)
