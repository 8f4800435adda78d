"""How good a router is where the label is known, and how sure of itself; plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

NONE = "none"
"""Where a router does not decide."""

BINS = 10


def share_right(truths: Sequence[str], guesses: Sequence[str | None]) -> dict[str, Any]:
    """`n`, how many are `right`, `accuracy`, its 95% Wilson `interval`; what is not decided is not right."""
    from scipy.stats import binomtest

    right = sum(truth == guess for truth, guess in zip(truths, guesses, strict=True))
    interval = binomtest(right, len(truths)).proportion_ci(method="wilson")
    return {
        "n": len(truths),
        "right": right,
        "accuracy": right / len(truths),
        "interval": [float(interval.low), float(interval.high)],
    }


def confusion(truths: Sequence[str], guesses: Sequence[str | None]) -> dict[str, dict[str, int]]:
    """Counts by the label and by what the router said."""
    table: dict[str, Counter[str]] = {truth: Counter() for truth in dict.fromkeys(truths)}
    for truth, guess in zip(truths, guesses, strict=True):
        table[truth][NONE if guess is None else guess] += 1
    return {truth: dict(counts) for truth, counts in table.items()}


def histogram(confidences: Sequence[float]) -> list[dict[str, float | int]]:
    """Counts in ten bins of equal width over [0, 1]; a bin holds its upper end in the last one only."""
    counts = Counter(min(int(value * BINS), BINS - 1) for value in confidences)
    return [{"from": b / BINS, "to": (b + 1) / BINS, "prompts": counts[b]} for b in range(BINS)]


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error in [0, 1], over ten bins: the mean distance of confidence and accuracy."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for value, correct in zip(confidences, right, strict=True):
        bins.setdefault(min(int(value * BINS), BINS - 1), []).append((value, correct))
    gaps = [abs(sum(v for v, _ in rows) - sum(c for _, c in rows)) for rows in bins.values()]
    return sum(gaps) / len(confidences)
