"""How long prompts and answers are: as measured, else as assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from configs.prompt_mode import PromptMode
from merging.planning.measured import Value
from merging.planning.seconds import Lengths
from routing.routers.decisions import RoutedPrompt

SHORT_SHARE, LONG_SHARE, KNEE = 1 / 2, 1 / 6, 512
"""Assumed mean answer: half of a short limit (26 to 34 of 48 tokens in the quickstart), a sixth of a long one
(2.8k of 16k in the paper's setting), and not less than `KNEE` tokens between the two."""

RANGE = (0.5, 2.0)
"""Factors of the assumed mean at the ends of a stage's range."""

PROMPT_SHARE = 1 / 8
"""Assumed mean prompt where none could be read, as a share of `max_prompt_tokens`."""


@dataclass(frozen=True)
class Expected:
    """Lengths that a stage is reckoned with."""

    lengths: Lengths
    source: str
    is_measured: bool

    def scaled(self, factor: float) -> Expected:
        """With answers longer by a factor, within the limit."""
        answer = min(self.lengths.answer * factor, float(self.lengths.limit))
        return replace(self, lengths=replace(self.lengths, answer=answer))


def assumed_answer(limit: int) -> float:
    """Mean tokens of an answer under a limit, where nothing was measured."""
    return max(LONG_SHARE * limit, min(SHORT_SHARE * limit, KNEE))


def expected(prompt: float, limit: int, measured: Sequence[Value | None]) -> Expected:
    """Lengths of answers of several domains in equal parts, assumed unless every one was measured."""
    known = [value for value in measured if value is not None]
    if known and len(known) == len(measured):
        answer = min(fmean(value.value for value in known), float(limit))
        return Expected(Lengths(prompt, answer, limit), known[0].source, True)
    answer = assumed_answer(limit)
    source = f"{answer:,.0f} of {limit:,} tokens"
    return Expected(Lengths(prompt, answer, limit), source, False)


def mean_prompts(
    routed: Sequence[RoutedPrompt],
    longest: Mapping[str, int],
    modes: Mapping[str, PromptMode],
    limit: int,
) -> dict[str, float]:
    """Mean tokens of a domain's prompts: the longest one's, in proportion to their characters, those of the
    domain's system message included."""
    found = {}
    for domain, mode in modes.items():
        sizes = [_characters(item, mode) for item in routed if item.domain == domain]
        if sizes and domain in longest:
            found[domain] = longest[domain] * fmean(sizes) / max(max(sizes), 1)
        else:
            found[domain] = limit * PROMPT_SHARE
    return found


def _characters(item: RoutedPrompt, mode: PromptMode) -> int:
    return sum(len(message["content"]) for message in mode.messages(item.prompt.messages))
