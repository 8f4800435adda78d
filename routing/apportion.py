"""Shares of the steps' rows as whole numbers, as exact as whole numbers allow."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import ceil, floor


def step_counts(shares: Mapping[str, Fraction], steps: int, size: int) -> Iterator[dict[str, int]]:
    """How many of each step's `size` rows each name has; `shares` are positive and add up to 1.

    In every step a name has its exact number share * size rounded down or up, and after every step its
    sum so far differs from the exact sum by less than 1.

    The names that are rounded up in a step are those that the scheduling algorithm PD2 runs (Anderson and
    Srinivasan, "Mixed Pfair/ERfair scheduling of asynchronous periodic tasks", 2004): a name's i-th extra
    row has a window of steps in which it keeps the sum within 1, the windows that end first go first, and
    the tie-breaks make sure that none is ever missed.
    """
    assert sum(shares.values()) == 1 and min(shares.values()) > 0, "shares are positive and add up to 1"
    exact = {name: share * size for name, share in shares.items()}
    whole = {name: floor(number) for name, number in exact.items()}
    rates = {name: exact[name] - whole[name] for name in exact if exact[name] != whole[name]}
    extra_rows = size - sum(whole.values())
    given = dict.fromkeys(rates, 0)
    for step in range(steps):
        open_windows = [name for name in rates if floor(given[name] / rates[name]) <= step]
        extra = sorted(open_windows, key=lambda name: _urgency(rates[name], given[name] + 1))[:extra_rows]
        for name in extra:
            given[name] += 1
        yield {name: number + (name in extra) for name, number in whole.items()}


def _urgency(rate: Fraction, number: int) -> tuple[int, int, int]:
    """Sorts the names by PD2's priority for their `number`-th extra row, the most urgent first.

    The end of its window; then, whether the next window overlaps this one; then, where windows are so
    short that one late row makes the following ones late, the step at which that chain ends.
    """
    end = ceil(number / rate)
    overlaps = number / rate != end
    chain_end = ceil(ceil(end * (1 - rate)) / (1 - rate)) if rate >= Fraction(1, 2) else 0
    return end, -overlaps, -chain_end


def interleaved(
    counts: Mapping[str, int], shares: Mapping[str, Fraction], before: Mapping[str, int]
) -> Iterator[str]:
    """The names of one step's rows, each as often as it counts, evenly spread.

    A name's next row is due when its share of all rows so far calls for it; `before` are the rows that the
    earlier steps had.
    """
    due = [((before[name] + 1) / shares[name], place, name) for place, name in enumerate(counts)]
    due = [(share, place, name) for share, place, name in due if counts[name]]
    heapq.heapify(due)
    left = dict(counts)
    while due:
        share, place, name = due[0]
        yield name
        left[name] -= 1
        if left[name]:
            heapq.heapreplace(due, (share + 1 / shares[name], place, name))
        else:
            heapq.heappop(due)
