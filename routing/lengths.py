"""How long prompts are in tokens, as the student reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from configs.prompt_mode import PromptMode
from routing.mix import by_domain
from routing.modes.chat_text import TemplateError, load_tokenizer, only_errors, rendered
from routing.routers.decisions import RoutedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH, BATCH_BYTES = 256, 2**20
"""Texts, and bytes of several, that a tokenizer reads at once: it holds hundreds of bytes for each token."""
LARGEST_TEXT = 2**22
"""Characters of a prompt that are counted: more than any model reads, and little enough to wait for."""
LARGEST_ADDED = 2**18
"""Characters that a chat template may add to the messages: far more than any instruction that it may hold,
and little enough to render for every prompt."""
EXTRA_TOKENS = 8
"""Tokens that a tokenizer may add to a text's bytes (a prefix space); one token holds at least a byte."""

Modes = Mapping[str, Sequence[PromptMode]]
"""By domain, the modes in which prompts may be asked: several where their domain is not known yet."""


def longest_prompts(
    routed: Sequence[RoutedPrompt], student: Path, modes: Modes
) -> dict[str, tuple[int, RoutedPrompt]]:
    """Each domain's longest prompt and its number of tokens: chat template, system message and generation
    prompt included, and in the longest of several modes.

    Texts are read in order of falling length in bytes, and only as long as a longer one can still come.
    Raises ConfigError if the tokenizer cannot be loaded or the template refuses a prompt.
    """
    if not routed:
        return {}
    with only_errors():
        tokenizer = load_tokenizer(student)
        return {
            name: _longest(items, tokenizer, student, modes[name])
            for name, items in by_domain(routed).items()
        }


def prompts_above(
    routed: Sequence[RoutedPrompt], student: Path, modes: Modes, limit: int
) -> Iterator[tuple[int, RoutedPrompt]]:
    """The prompts with more tokens than `limit` in any mode, each with its most tokens, in order."""
    with only_errors():
        tokenizer = load_tokenizer(student)
        for item in routed:
            texts = (_rendered(item, tokenizer, student, mode) for mode in modes[item.domain])
            long = [text for text in texts if _size(text) + EXTRA_TOKENS > limit]
            tokens = max((len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in long), default=0)
            if tokens > limit:
                yield tokens, item


def _longest(
    items: list[RoutedPrompt], tokenizer: PreTrainedTokenizerBase, student: Path, modes: Sequence[PromptMode]
) -> tuple[int, RoutedPrompt]:
    asked = [item for item in items for _ in modes]
    texts = [_rendered(item, tokenizer, student, mode) for item in items for mode in modes]
    sizes = [_size(text) for text in texts]
    order = sorted(range(len(asked)), key=lambda position: -sizes[position])
    found = (-1, items[0])
    for batch in _batches(order, sizes):
        if sizes[batch[0]] + EXTRA_TOKENS <= found[0]:
            break
        encoded = tokenizer([texts[position] for position in batch], add_special_tokens=False)["input_ids"]
        for position, ids in zip(batch, encoded, strict=True):
            if len(ids) > found[0]:
                found = (len(ids), asked[position])
    return found


def _batches(order: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Positions in their order, those together whose texts are read at once."""
    batch: list[int] = []
    held = 0
    for position in order:
        held += sizes[position]
        if batch and (len(batch) == BATCH or held > BATCH_BYTES):
            yield batch
            batch, held = [], sizes[position]
        batch.append(position)
    yield batch


def _size(text: str) -> int:
    """Bytes of a text."""
    return len(text.encode("utf-8"))


def _rendered(item: RoutedPrompt, tokenizer: PreTrainedTokenizerBase, student: Path, mode: PromptMode) -> str:
    try:
        text = rendered(tokenizer, item.prompt.messages, mode)
    except TemplateError as error:
        raise ConfigError(
            f"{item.prompt.where}: the student's chat template ({student}) refuses the prompt: {error}"
        ) from None
    own = sum(len(message["content"]) for message in mode.messages(item.prompt.messages))
    if len(text) - own > LARGEST_ADDED:
        raise ConfigError(
            f"{item.prompt.where}: the student's chat template ({student}) makes {len(text):,} characters of "
            f"a prompt of {own:,}; it may add at most {LARGEST_ADDED:,}"
        )
    return text[:LARGEST_TEXT]
