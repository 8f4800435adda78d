"""Overlap of training prompts with benchmark problems: exact, and by shared n-grams of words.

13-grams by default, as in GPT-3's contamination study (arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from routing.sources.collect import Prompt

NGRAM = 13
"""Words in a row that count as the same text, where nothing else is said."""

COMMON = 2
"""An n-gram of more benchmark problems than this is instruction wording, and no sign of overlap."""


@dataclass(frozen=True)
class Overlap:
    """A training prompt that repeats a benchmark problem."""

    prompt: Prompt
    problem: int
    """Position in the given benchmark problems."""
    kind: str
    """`exact`, or `13-gram` (or whatever length was looked for)."""
    shared: str
    """The shared text, normalised (of an n-gram: the first one)."""


def check(
    prompts: Iterable[Prompt],
    benchmark_problems: Sequence[str],
    ngram: int = NGRAM,
    endings: Collection[str] = (),
) -> list[Overlap]:
    """Every prompt that overlaps a problem, once each (exact before n-gram), in the prompts' order.

    Exact compares words and signs (`37+48` is not `37*48`), without case, spacing and Unicode variants;
    an n-gram compares words alone. One of `endings`, instructions such as a source's or a benchmark's
    `suffix`, is left out where a prompt or a problem ends with it.
    """
    questions = _Questions(endings)
    exact: dict[tuple[str, ...], int] = {}
    grams: dict[tuple[str, ...], int] = {}
    in_problems: Counter[tuple[str, ...]] = Counter()
    for position, problem in enumerate(map(questions.of, benchmark_problems)):
        exact.setdefault(_tokens(problem), position)
        own = dict.fromkeys(_ngrams(problem, ngram))  # each gram once, in order
        in_problems.update(own.keys())
        for gram in own:
            grams.setdefault(gram, position)
    telling = {gram: position for gram, position in grams.items() if in_problems[gram] <= COMMON}
    found = (_overlap(prompt, questions.of(prompt.text), exact, telling, ngram) for prompt in prompts)
    return [overlap for overlap in found if overlap is not None]


def _overlap(
    prompt: Prompt,
    question: str,
    exact: dict[tuple[str, ...], int],
    grams: dict[tuple[str, ...], int],
    ngram: int,
) -> Overlap | None:
    tokens = _tokens(question)
    if tokens in exact:
        return Overlap(prompt, exact[tokens], "exact", " ".join(tokens))
    for gram in _ngrams(question, ngram):
        if gram in grams:
            return Overlap(prompt, grams[gram], f"{ngram}-gram", " ".join(gram))
    return None


class _Questions:
    """Texts without the instruction that they end with."""

    def __init__(self, endings: Collection[str]) -> None:
        # the longest first: one ending may be the end of another
        self.endings = sorted({end.strip() for end in endings if end.strip()}, key=lambda e: (-len(e), e))

    def of(self, text: str) -> str:
        text = text.rstrip()
        end = next((end for end in self.endings if text.endswith(end)), "")
        return text.removesuffix(end).strip() or text


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _tokens(text: str) -> tuple[str, ...]:
    """Words and single signs."""
    return tuple(re.findall(r"\w+|[^\w\s]", _normal(text)))


def _ngrams(text: str, length: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", _normal(text))
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
