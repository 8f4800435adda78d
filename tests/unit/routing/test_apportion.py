"""Shares as whole numbers: exact in every step and in every sum, for any shares."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import accumulate
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.apportion import interleaved, step_counts


def shares_of(weights) -> dict[str, Fraction]:
    return {f"d{i}": Fraction(weight, sum(weights)) for i, weight in enumerate(weights)}


def check(shares: dict[str, Fraction], steps: int, size: int) -> None:
    """Every promise of `step_counts`."""
    found = list(step_counts(shares, steps, size))
    assert len(found) == steps
    for counts in found:
        assert sum(counts.values()) == size
        assert list(counts) == list(shares)
        for name, share in shares.items():
            assert counts[name] in (floor(share * size), ceil(share * size))
    for name, share in shares.items():
        for step, total in enumerate(accumulate(counts[name] for counts in found), start=1):
            assert abs(total - share * size * step) < 1, (name, step)


WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.integers(1, 40), st.integers(1, 60))
def test_every_step_and_every_sum_is_exact_for_any_shares(weights, steps, size):
    check(shares_of(weights), steps, size)


@pytest.mark.parametrize(
    ("weights", "size"),
    [
        # found by search: without the first tie-break (overlapping windows first) a row comes late
        ([9, 4, 8, 8, 9, 4], 3),
        ([4, 5, 2, 5, 12], 5),
        # without the second (the end of a chain of windows)
        ([8, 4, 7, 9, 9], 4),
        ([9, 9, 10, 12, 10, 12], 5),
        # without either
        ([6, 12, 6, 5, 5, 4], 5),
    ],
)
def test_schedules_that_need_the_tie_breaks(weights, size):
    check(shares_of(weights), 2 * sum(weights), size)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(1, 6))
def test_tight_schedules_are_exact(weights, size):
    """Few rows and coarse shares: windows are short, chains of them meet, and no row may come late."""
    shares = shares_of(weights)
    check(shares, 3 * sum(weights), size)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=40, max_size=60), st.integers(1, 200))
def test_forty_domains_and_more(weights, size):
    check(shares_of(weights), 12, size)


def test_one_domain_has_all():
    assert list(step_counts({"a": Fraction(1)}, 3, 7)) == [{"a": 7}] * 3


def test_a_known_schedule():
    """2.5, 1.25 and 1.25 rows a step: the halves alternate, and every fourth step has each quarter's row."""
    shares = {"a": Fraction(1, 2), "b": Fraction(1, 4), "c": Fraction(1, 4)}
    found = [tuple(counts.values()) for counts in step_counts(shares, 4, 5)]
    assert found == [(3, 1, 1), (2, 2, 1), (3, 1, 1), (2, 1, 2)]


@pytest.mark.parametrize("shares", [{"a": Fraction(1, 2)}, {"a": Fraction(1), "b": Fraction(0)}])
def test_shares_are_positive_and_add_up_to_one(shares):
    with pytest.raises(AssertionError, match="add up to 1"):
        list(step_counts(shares, 1, 1))


# ------------------------------------------------------------------------------------- one step's rows


def slow_interleaved(counts, shares, before):
    """The obvious way: whose next row is due first."""
    given, left = dict(before), dict(counts)
    for _ in range(sum(counts.values())):
        name = min((n for n in left if left[n]), key=lambda n: (given[n] + 1) / shares[n])
        given[name] += 1
        left[name] -= 1
        yield name


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.integers(1, 5), st.integers(1, 40))
def test_a_steps_rows_are_spread_as_the_slow_way_spreads_them(weights, steps, size):
    shares, before = shares_of(weights), dict.fromkeys(shares_of(weights), 0)
    for counts in step_counts(shares, steps, size):
        names = list(interleaved(counts, shares, before))
        assert names == list(slow_interleaved(counts, shares, before))
        assert Counter(names) == Counter(counts)
        before = {name: before[name] + counts[name] for name in counts}


def test_rows_of_a_known_step():
    shares = {"a": Fraction(1, 2), "b": Fraction(1, 4), "c": Fraction(1, 4)}
    none_yet, counts = dict.fromkeys(shares, 0), {"a": 4, "b": 2, "c": 2}
    # due, in rows of all: a at 2, 4, 6, 8; b and c at 4, 8; the earlier name first where equal
    assert "".join(interleaved(counts, shares, none_yet)) == "aabcaabc"
    # b has had one more than its share: its next is due at 8
    assert "".join(interleaved({"a": 2, "b": 1, "c": 1}, shares, {"a": 0, "b": 1, "c": 0})) == "aacb"
    assert list(interleaved({"a": 0, "b": 1, "c": 0}, shares, none_yet)) == ["b"]
