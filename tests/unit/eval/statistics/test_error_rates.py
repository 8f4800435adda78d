"""How often the report's outcomes are wrong where the truth is known: simulated answers, counted errors.

Every draw is a report of two domains and two decodings: each model's answers to problems of its own
difficulty, four at temperature 1 and one greedy. The bootstrap and the sign flips draw 300 times here and
10,000 times in a report; with fewer the p-values stay valid and only get coarser.
"""

from __future__ import annotations

import numpy as np
import pytest

from eval.statistics import intervals as statistics
from eval.statistics.intervals import Difference, holm, paired_difference
from eval.statistics.questions import intersection_p, outcome
from eval.statistics.seeds import difference_over_seeds

MARGIN = 0.02
DRAWS = 1000
MERGES = 3
SIZES = (30, 40)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)


def standard_error(rate: float, draws: int) -> float:
    return (rate * (1 - rate) / draws) ** 0.5


def models(rng: np.random.Generator, count: int, problems: int) -> np.ndarray:
    """Chances to be right, [models, problems]: the same mean for all, other strengths on each problem."""
    return np.clip(rng.beta(1.2, 1.2, problems) + 0.2 * rng.choice((-1, 1), (count, problems)), 0, 1)


def answered(rng: np.random.Generator, chances: np.ndarray, n: int) -> dict[str, list[float]]:
    """The problems' scores, each of n answers."""
    return {str(i): [float(share)] for i, share in enumerate(rng.binomial(n, chances) / n)}


def mean(scores: dict[str, list[float]]) -> float:
    return float(np.mean([values[0] for values in scores.values()]))


def primary_family(rng: np.random.Generator) -> tuple[list[Difference], list[Difference]]:
    """Against the own teacher, and against the most accurate merge, of every domain and decoding."""
    teachers, merges = [], []
    for problems in SIZES:
        chances = models(rng, 2 + MERGES, problems)
        for n in (4, 1):
            student, teacher, *others = (answered(rng, chance, n) for chance in chances)
            seed = int(rng.integers(2**31))
            teachers.append(paired_difference(student, teacher, seed))
            merges.append(paired_difference(student, max(others, key=mean), seed))
    return teachers, merges


def test_without_any_difference_beats_is_said_in_at_most_5_percent_of_reports():
    rng = np.random.default_rng(20)
    beats = below_teacher = everywhere = 0
    for _ in range(DRAWS):
        teachers, merges = primary_family(rng)
        family = [*teachers, *merges]
        adjusted = holm([d.p_value for d in family])
        found = [outcome(d.mean, d.lo, d.hi, p, MARGIN) for d, p in zip(family, adjusted, strict=True)]
        claimed = intersection_p([(d.mean, d.p_value) for d in teachers]) <= 0.05
        everywhere += claimed
        beats += claimed or "beats" in found
        below_teacher += "below" in found[: len(teachers)]
    most = 0.05 + 2 * standard_error(0.05, DRAWS)
    assert beats / DRAWS <= most and below_teacher / DRAWS <= most
    assert everywhere / DRAWS <= 0.01


def test_the_interval_of_one_training_covers_in_93_to_97_percent():
    rng = np.random.default_rng(21)
    covered = {4: 0, 1: 0}
    for seed in range(DRAWS):
        chances = models(rng, 2, 60)
        for n in covered:
            student, other = (answered(rng, chance, n) for chance in chances)
            found = paired_difference(student, other, seed)
            covered[n] += found.lo <= 0 <= found.hi
    assert all(0.93 <= count / DRAWS <= 0.97 for count in covered.values()), covered


def test_level_is_said_in_at_most_5_percent_where_the_difference_is_the_margin():
    """100 problems of 96 answers: intervals are about 2.4 points wide, so a margin of 2 can be met."""
    rng = np.random.default_rng(22)
    level = decided = 0
    for seed in range(DRAWS):
        chance = rng.uniform(0.1, 0.88, 100)
        above, other = answered(rng, chance + MARGIN, 96), answered(rng, chance, 96)
        found = paired_difference(*((above, other) if seed % 2 else (other, above)), seed)
        level += outcome(found.mean, found.lo, found.hi, 1.0, MARGIN) == "level"
        if seed < 200:
            same = paired_difference(answered(rng, chance, 96), other, seed)
            decided += outcome(same.mean, same.lo, same.hi, 1.0, MARGIN) == "level"
    assert level / DRAWS <= 0.05
    assert decided / 200 > 0.5, "and it can be said where there is no difference"


@pytest.mark.parametrize("seed_spread", [0.0, 0.03, 0.1])
def test_the_interval_of_three_trainings_covers_at_least_93_percent(seed_spread):
    """Binary answers, a fixed teacher, and a training that moves the whole student up or down."""
    rng = np.random.default_rng(23)
    covered = 0
    for _ in range(DRAWS):
        base, teacher = models(rng, 2, 60)
        moved = [np.clip(0.2 + 0.6 * base + rng.normal(0, seed_spread), 0, 1) for _ in range(3)]
        found = difference_over_seeds(
            [answered(rng, chance, 4) for chance in moved], answered(rng, 0.2 + 0.6 * teacher, 4)
        )
        covered += found.lo <= 0 <= found.hi
    assert covered / DRAWS >= 0.93
