"""What a server answers to a prompt whose log-probabilities are wanted, checked number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_LOG_PROBABILITY = -9999.0
"""What vLLM sends in place of minus infinity, which JSON cannot hold."""

GREATEST_LOG_PROBABILITY = 1e-3
"""A probability of 1, and a little for rounding; what is above is no log-probability, but a logit."""


class MalformedAnswerError(ValueError):
    """The answer is not the log-probabilities that were asked for; the message says what came instead."""


def response_logp(answer: Mapping[str, Any], token_ids: Sequence[int], response_tokens: int) -> list[float]:
    """log p(token | tokens before it) of the last `response_tokens` tokens, in natural logs.

    `answer` is vLLM's to a completion with `prompt_logprobs: 0` of these token ids. Raises
    MalformedAnswerError for one of another number of tokens, without one of the tokens, or with a number that
    is none."""
    entries = _entries(answer)
    if len(entries) != len(token_ids):
        raise MalformedAnswerError(
            f"log-probabilities of {len(entries)} tokens came for {len(token_ids)} that were sent"
        )
    first = len(token_ids) - response_tokens
    return [_logp(entries[place], token_ids[place], place) for place in range(first, len(token_ids))]


def _entries(answer: Mapping[str, Any]) -> list[Any]:
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    entries = choice.get("prompt_logprobs") if isinstance(choice, dict) else None
    if not isinstance(entries, list):
        raise MalformedAnswerError("no prompt log-probabilities came (choices[0].prompt_logprobs)")
    return entries


def _logp(entry: Any, token: int, place: int) -> float:
    where = f"token {place + 1} (id {token})"
    if not isinstance(entry, dict) or not isinstance(entry.get(str(token)), dict):
        held = f"those of the ids {', '.join(list(entry)[:3])}" if isinstance(entry, dict) else repr(entry)
        raise MalformedAnswerError(f"no log-probability of {where} came, but {held}")
    value = entry[str(token)].get("logprob")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= LEAST_LOG_PROBABILITY:
        raise MalformedAnswerError(f"the log-probability of {where} is {value!r}, which is no finite number")
    if value > GREATEST_LOG_PROBABILITY:
        raise MalformedAnswerError(f"the log-probability of {where} is {value:g}, and none is above 0")
    return float(value)
