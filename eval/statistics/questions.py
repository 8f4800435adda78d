"""What is concluded from a paired difference: one of four outcomes, declared before anything is trained.

"beats" and "below" rest on a p-value that is corrected for a whole family of questions (Holm), "level" on
equivalence: the 95% interval lies within a margin. All else is "not decided", with the number of problems
that would decide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

Outcome = Literal["beats", "below", "level", "not decided"]

SIGNIFICANT = 0.05
"""Largest p-value that decides: of a family after its correction, of an intersection as it is."""
MOST_PROBLEMS = 100_000
"""Above this no number of problems is named."""


def outcome(difference: float, lo: float, hi: float, p_adjusted: float, margin: float) -> Outcome:
    """What a difference in [-1, 1] shows, from its 95% interval and its corrected p-value.

    A difference that is significant and also within the margin (in [0, 1]) has a direction. "level" holds an
    interval of 95% to the margin on both sides, so it is wrong with probability 0.025 at most where the true
    difference is the margin (two one-sided tests; Schuirmann 1987, doi:10.1007/BF01068419).
    """
    if p_adjusted <= SIGNIFICANT and difference != 0:
        return "beats" if difference > 0 else "below"
    return "level" if -margin <= lo and hi <= margin else "not decided"


def deciding_problems(difference: float, spread: float, n: int, family: int, margin: float) -> int | None:
    """The smallest number of problems at which the same difference and spread would decide a question.

    That is the smaller of two: where the difference is significant at the level of each of `family`
    questions (0.05 / family, which Holm's correction never exceeds), and where its interval fits into the
    margin. `spread` is the standard deviation of the problems' differences, `n` the problems of a question
    that they did not decide: the answer is above it. None above `MOST_PROBLEMS`.
    """
    from eval.statistics.intervals import MIN_PROBLEMS, t_quantile

    size, level = abs(difference), SIGNIFICANT / family

    def is_significant(problems: int) -> bool:
        return size * math.sqrt(problems) >= spread * t_quantile(1 - level / 2, problems - 1)

    def fits(problems: int) -> bool:
        return spread * t_quantile(0.975, problems - 1) <= (margin - size) * math.sqrt(problems)

    # n problems of one sign have a sign-flip p-value of 2 / 2^n, and fewer than MIN_PROBLEMS no interval
    fewest = max(n + 1, math.ceil(1 - math.log2(level)))
    found = [_smallest(is_significant, fewest)] if size > 0 else []
    if size < margin:
        found.append(_smallest(fits, max(n + 1, MIN_PROBLEMS)))
    return min((problems for problems in found if problems is not None), default=None)


def _smallest(holds: Callable[[int], bool], fewest: int) -> int | None:
    """The first number from `fewest` to `MOST_PROBLEMS` for which it holds, as it does for all above."""
    if fewest > MOST_PROBLEMS or not holds(MOST_PROBLEMS):
        return None
    below, above = fewest - 1, MOST_PROBLEMS
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above


def intersection_p(questions: Sequence[tuple[float, float]]) -> float:
    """p of the claim that every one of these differences is above 0, from each with its two-sided p-value.

    An intersection-union test (Berger 1982, doi:10.1080/00401706.1982.10487790): the largest p, uncorrected,
    since all have to hold at once; a difference that is not above 0 counts as 1. The two-sided p-value keeps
    the claim's error at half of `SIGNIFICANT`, so that it and a family's "beats" together stay below it.
    """
    assert questions, "a claim about something"
    return max(p_value if difference > 0 else 1.0 for difference, p_value in questions)
