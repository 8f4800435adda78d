"""What several sampled answers to a problem are worth together: pass@k and majority votes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.grading.maths.grading import last_boxed
from eval.grading.maths.limits import MAX_ANSWER_CHARS
from eval.records import Sample, Verdict
from eval.statistics.intervals import mean_interval

ANSWERED = "answered "
"""How a grader's detail starts if it shows the answer that was compared (`eval.grading.maths.grading`)."""
SHOWN_CHARS = 60
"""So many characters of an answer are in the detail."""


@dataclass(frozen=True)
class AtK:
    """A mean over problems of what k answers achieve. What no problem tells is None."""

    k: int
    accuracy: float | None
    lo: float | None
    hi: float | None
    """95% interval, clustered by problem."""
    n: int
    """Problems."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n answers, drawn without replacement, hold one of the c right ones.

    It estimates without bias whether one of k fresh answers is right (Chen et al. 2021, arXiv 2107.03374).
    """
    assert 0 <= c <= n and 1 <= k <= n
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_rates(samples: Sequence[Sample]) -> tuple[AtK, ...]:
    """pass@k of one model on one benchmark, for k = 1, 2, 4, ... up to the sampled answers of a problem.

    Each is a mean over the problems with at least k judged answers.
    """
    sampled = _by_problem(sample for sample in samples if sample.mode == "sampled")
    judged = [_judged(answers) for answers in sampled.values()]
    most = max((len(answers) for answers in sampled.values()), default=0)
    return tuple(_pass_rate(judged, 2**i) for i in range(most.bit_length()))


def majority(samples: Sequence[Sample]) -> AtK | None:
    """maj@k of one model on one benchmark with final answers: a vote among all judged sampled answers.

    The most frequent answer wins, of several the first to appear; the vote is right if the first sample
    with that answer is. Answers that are equal but for their notation (`normalised`) count as one; equal
    values written otherwise do not, which can only split a vote. A sample without an answer has no vote,
    and a problem without a vote is wrong. k is the largest number of judged answers to a problem; None
    if that is below 2, where nothing is voted on.
    """
    sampled = _by_problem(sample for sample in samples if sample.mode == "sampled")
    judged = [answers for answers in map(_judged, sampled.values()) if answers]
    k = max((len(answers) for answers in judged), default=0)
    return _mean(k, [(1, float(_vote_is_right(answers))) for answers in judged]) if k > 1 else None


def has_final_answers(samples: Iterable[Sample]) -> bool:
    """Whether the benchmark of these samples compares final answers, which can be voted on.

    Its grader then shows the answers that it compared; a grader of programs has none to show.
    """
    return any(sample.detail.startswith(ANSWERED) for sample in samples)


def final_answer(sample: Sample) -> str | None:
    """The answer that the grader compared, else the content of the last box; None if there is neither.

    Of an answer that a detail shows cut off, the whole is taken from the box, if it has one.
    """
    if not sample.finished:
        return None
    boxed = (last_boxed(sample.completion) or "").strip()
    if not sample.detail.startswith(ANSWERED):
        return boxed or None
    shown = sample.detail.removeprefix(ANSWERED)
    return boxed if boxed[:SHOWN_CHARS] == shown else shown


_NUMBER = re.compile(r"([+-]?)0*([0-9]+?)(?:\.([0-9]*?)0*)?")


def normalised(answer: str) -> str:
    """An answer without what does not change its value, such as spacing or the zeros around a number.

    A text that is too long to be graded stays as it is.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return answer
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\!|\$", "", answer)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[,;: ]|~|\s+", " ", text).strip().removesuffix(".")
    text = re.sub(r" +", " ", text)
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)  # "1 2" is not "12"
    if re.fullmatch(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", text):
        text = text.replace(",", "")
    if number := _NUMBER.fullmatch(text):
        sign, whole, decimals = number.groups()
        text = f"{whole}.{decimals}" if decimals else whole
        return f"-{text}" if sign == "-" and text != "0" else text
    return text


def _by_problem(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples of each problem in the order in which they were drawn."""
    found: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.index):
        found.setdefault(sample.problem_id, []).append(sample)
    return found


def _judged(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.verdict != Verdict.UNSCORED]


def _pass_rate(judged: Iterable[Sequence[Sample]], k: int) -> AtK:
    counts = [(len(a), sum(s.verdict == Verdict.PASS for s in a)) for a in judged if len(a) >= k]
    return _mean(k, [(n, pass_at_k(n, c, k)) for n, c in counts])


def _vote_is_right(samples: Sequence[Sample]) -> bool:
    votes: dict[str, list[Sample]] = {}
    for sample in samples:
        if (answer := final_answer(sample)) is not None:
            votes.setdefault(normalised(answer), []).append(sample)
    if not votes:
        return False
    winners = max(votes.values(), key=len)  # of several the first, as they stand in the order of the samples
    return winners[0].verdict == Verdict.PASS


def _mean(k: int, weighted: Sequence[tuple[int, float]]) -> AtK:
    """Mean of (answers, value) by problem; all answers to a problem have its value."""
    estimate = mean_interval({str(i): [value] * n for i, (n, value) in enumerate(weighted)})
    if not weighted:
        return AtK(k, None, None, None, 0)
    return AtK(k, estimate.mean, estimate.lo, estimate.hi, estimate.n_problems)
