"""How far a model has come: by hand, in one domain and over several, and by simulation."""

import math

import numpy as np
import pytest

from eval.statistics import intervals as statistics
from eval.statistics.shares import macro_share, recovery, worst_share


def scores(passes, n):
    return {str(i): [1.0] * int(k) + [0.0] * (n - int(k)) for i, k in enumerate(passes)}


def test_recovery_by_hand():
    base, teacher = scores([0] * 10, 4), scores([4] * 5 + [2] * 5, 4)
    student = scores([4] * 5 + [0] * 5, 4)
    found = recovery(student, teacher, base, seed=0)
    assert (found.ratio, found.gap, found.n_problems) == (pytest.approx(0.5 / 0.75), 0.75, 10)
    assert found.lo < found.ratio < found.hi <= 1.0
    exact = recovery(teacher, teacher, base, seed=0)
    assert (exact.ratio, exact.lo, exact.hi) == (1.0, 1.0, 1.0)
    assert recovery(base, teacher, base, seed=0).ratio == 0.0
    beyond = recovery(scores([4] * 10, 4), scores([2] * 10, 4), base, seed=0)
    assert (beyond.ratio, beyond.lo, beyond.hi) == (2.0, 2.0, 2.0)


def test_without_a_clear_gap_nothing_is_recovered():
    base, close = scores([0, 4] * 10, 4), scores([4, 0] * 9 + [4, 4], 4)
    found = recovery(close, close, base, seed=0)
    assert (found.ratio, found.lo, found.hi, found.gap) == (None, None, None, pytest.approx(0.05))
    assert found.gap_lo <= 0 < found.gap_hi
    assert recovery(close, base, close, seed=0).ratio is None, "a teacher below the base"
    few = recovery(scores([4] * 5, 4), scores([4] * 5, 4), scores([0] * 5, 4), seed=0)
    assert (few.ratio, few.gap, few.gap_lo, few.n_problems) == (None, 1.0, -1.0, 5)
    none = recovery({"a": [1.0]}, {"b": [1.0]}, {"a": [0.0]}, seed=0)
    assert math.isnan(none.gap) and none.n_problems == 0


def test_recovery_covers_and_stays_finite(monkeypatch):
    """Base 30%, teacher 60%, student 75%: half as far again as the teacher."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng = np.random.default_rng(9)
    hits = 0
    for seed in range(500):
        p = rng.uniform(0.05, 0.55, 60)
        draw = [scores(rng.binomial(4, q), 4) for q in (p + 0.45, p + 0.3, p)]
        found = recovery(*draw, seed)
        hits += found.lo <= 1.5 <= found.hi
        weak = recovery(*(scores(rng.binomial(4, q), 4) for q in (p[:12] + 0.45, p[:12] + 0.2, p[:12])), seed)
        assert weak.ratio is None or (math.isfinite(weak.lo) and math.isfinite(weak.hi))
    assert 0.93 <= hits / 500 <= 0.97


# ---------------------------------------------------------------------------------- several domains

BASE = scores([0] * 10, 4)
HALF, MOST = scores([4] * 5 + [0] * 5, 4), scores([4] * 8 + [0] * 2, 4)
EVERY = scores([4] * 10, 4)


def test_over_one_domain_the_share_is_that_domains():
    alone = {"math": (HALF, MOST, BASE)}
    assert macro_share(alone, seed=3) == recovery(HALF, MOST, BASE, seed=3)
    worst, own = worst_share(alone, seed=3), recovery(HALF, MOST, BASE, seed=3)
    assert (worst.ratio, worst.lo, worst.hi) == (own.ratio, own.lo, own.hi)


def test_shares_over_domains_by_hand():
    """math comes 5/8 of its way of 0.8, code 10/5 of its way of 0.5."""
    domains = {"math": (HALF, MOST, BASE), "code": (EVERY, HALF, BASE)}
    macro = macro_share(domains, seed=0)
    assert macro.ratio == pytest.approx((0.5 + 1.0) / (0.8 + 0.5))
    assert macro.gap == pytest.approx((0.8 + 0.5) / 2) and macro.n_problems == 10
    assert macro.lo < macro.ratio < macro.hi and macro.gap_lo > 0
    worst = worst_share(domains, seed=0)
    assert (worst.domain, worst.ratio) == ("math", pytest.approx(5 / 8)) and worst.lo < 5 / 8 < worst.hi


def test_a_teacher_that_is_not_clearly_above_spoils_the_worst_share_only():
    unclear = (EVERY, scores([1] + [0] * 9, 4), BASE)
    domains = {"math": (HALF, MOST, BASE), "code": unclear}
    worst = worst_share(domains, seed=0)
    assert (worst.ratio, worst.domain, worst.unclear) == (None, None, ("code",))
    assert macro_share(domains, seed=0).ratio == pytest.approx((0.5 + 1.0) / (0.8 + 0.025))
    assert macro_share({"code": unclear}, seed=0).ratio is None


def test_too_few_problems_of_one_domain_give_no_share():
    few = {key: HALF[key] for key in list(HALF)[:5]}
    domains = {"math": (HALF, MOST, BASE), "code": (few, few, BASE)}
    assert macro_share(domains, seed=0) is None and worst_share(domains, seed=0) is None
    assert macro_share({}, seed=0) is None


def test_the_share_over_domains_covers_the_truth(monkeypatch):
    """Gaps of 0.3 and 0.1, gains of 0.15 and 0.15: together 0.3 of 0.4."""
    monkeypatch.setattr(statistics, "RESAMPLES", 600)
    rng = np.random.default_rng(11)

    def domain(gain, gap, n):
        p = rng.uniform(0.05, 0.5, n)
        return tuple(scores(rng.binomial(4, q), 4) for q in (p + gain, p + gap, p))

    hits = 0
    for seed in range(600):
        found = macro_share({"math": domain(0.15, 0.3, 60), "code": domain(0.15, 0.1, 90)}, seed)
        hits += found.lo <= 0.75 <= found.hi
    assert 0.93 <= hits / 600 <= 0.97
