"""What one model scored on one benchmark, from its graded samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.records import Sample
    from eval.statistics.at_k import AtK


@dataclass(frozen=True)
class Score:
    """One model on one benchmark. `accuracy`, `lo` and `hi` are None where no answer could be judged."""

    accuracy: float | None
    lo: float | None
    hi: float | None
    n: int
    """Judged answers; unscored ones are not among them."""
    unscored: int = 0
    finish_rate: float | None = None
    """Share of answers that ended before the length limit."""
    mean_tokens: float | None = None
    accuracy_when_finished: float | None = None
    """Share of right answers among the judged ones that ended before the length limit."""
    pass_at: tuple[AtK, ...] = ()
    """pass@k for k = 1, 2, 4, ...; empty for greedy answers."""
    majority: AtK | None = None
    """maj@k; None for greedy answers, for fewer than 2 to a problem, and for programs."""
    problems: int = 0
    """Problems with a judged answer."""

    @property
    def estimate(self) -> tuple[float, float, float] | None:
        """Accuracy and the ends of its interval; None where no answer could be judged."""
        if self.accuracy is None or self.lo is None or self.hi is None:
            return None
        return self.accuracy, self.lo, self.hi


def score_samples(answers: Sequence[Sample], votable: bool) -> Score:
    """The score of one model's answers; votable: whether the benchmark has final answers to vote on.

    Numbers about no judged answer are None.
    """
    from eval.statistics.at_k import majority, pass_rates
    from eval.statistics.compare import summarise

    summary = summarise(answers)
    return Score(
        accuracy=summary.accuracy,
        lo=summary.lo,
        hi=summary.hi,
        n=summary.n,
        unscored=summary.unscored,
        finish_rate=summary.finish_rate,
        mean_tokens=summary.mean_tokens,
        accuracy_when_finished=summary.accuracy_when_finished,
        pass_at=pass_rates(answers),
        majority=majority(answers) if votable else None,
        problems=summary.problems,
    )


def to_json(score: Score | None) -> dict[str, Any] | None:
    """Plain values for `report.json`, null for what was not measured."""
    if score is None:
        return None
    vote = score.majority
    return {
        "accuracy": score.accuracy,
        "n": score.n,
        "problems": score.problems,
        "interval": None if score.lo is None else [score.lo, score.hi],
        "unscored": score.unscored,
        "finish_rate": score.finish_rate,
        "accuracy_when_finished": score.accuracy_when_finished,
        "mean_tokens": score.mean_tokens,
        "pass_at_k": {str(found.k): _at_k_json(found) for found in score.pass_at},
        "maj_at_k": None if vote is None else {"k": vote.k, **_at_k_json(vote)},
    }


def _at_k_json(found: AtK) -> dict[str, Any]:
    interval = None if found.lo is None else [found.lo, found.hi]
    return {"accuracy": found.accuracy, "interval": interval, "n": found.n}
