"""How long prompts are in tokens, as the student reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from routing.mix import by_domain
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


def longest_prompts(
    routed: Sequence[RoutedPrompt], student: Path, template: Mapping[str, Any]
) -> dict[str, tuple[int, RoutedPrompt]]:
    """Each domain's longest prompt and its number of tokens, chat template and generation prompt included.

    Texts are read in order of falling length in bytes, and only as long as a longer one can still come.
    Raises ConfigError if the tokenizer cannot be loaded or the template refuses a prompt.
    """
    if not routed:
        return {}
    with _only_errors():
        tokenizer = _load(student)
        return {
            name: _longest(items, tokenizer, student, template) for name, items in by_domain(routed).items()
        }


def prompts_above(
    routed: Sequence[RoutedPrompt], student: Path, template: Mapping[str, Any], limit: int
) -> Iterator[tuple[int, RoutedPrompt]]:
    """The prompts with more tokens than `limit`, each with its number of tokens, in order."""
    with _only_errors():
        tokenizer = _load(student)
        for item in routed:
            text = _rendered(item, tokenizer, student, template)
            if _size(text) + EXTRA_TOKENS > limit:
                tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
                if tokens > limit:
                    yield tokens, item


def _longest(
    items: list[RoutedPrompt], tokenizer: PreTrainedTokenizerBase, student: Path, template: Mapping[str, Any]
) -> tuple[int, RoutedPrompt]:
    texts = [_rendered(item, tokenizer, student, template) for item in items]
    sizes = [_size(text) for text in texts]
    order = sorted(range(len(items)), key=lambda position: -sizes[position])
    found = (-1, items[0])
    for batch in _batches(order, sizes):
        if sizes[batch[0]] + EXTRA_TOKENS <= found[0]:
            break
        encoded = tokenizer([texts[position] for position in batch], add_special_tokens=False)["input_ids"]
        for position, ids in zip(batch, encoded, strict=True):
            if len(ids) > found[0]:
                found = (len(ids), items[position])
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


def _rendered(
    item: RoutedPrompt, tokenizer: PreTrainedTokenizerBase, student: Path, template: Mapping[str, Any]
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            list(item.prompt.messages), add_generation_prompt=True, tokenize=False, **template
        )
        assert isinstance(text, str), "it was not asked for tokens"
    except Exception as error:  # a template is a program, which fails in any way
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"{item.prompt.where}: the student's chat template ({student}) refuses the prompt: {told}"
        ) from None
    own = sum(len(message["content"]) for message in item.prompt.messages)
    if len(text) - own > LARGEST_ADDED:
        raise ConfigError(
            f"{item.prompt.where}: the student's chat template ({student}) makes {len(text):,} characters of "
            f"a prompt of {own:,}; it may add at most {LARGEST_ADDED:,}"
        )
    return text[:LARGEST_TEXT]


def _load(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer; where tokenizer.json says all, by the class that loads without torch (4 s less)."""
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast as Tokenizer
        else:
            from transformers import AutoTokenizer as Tokenizer
        return Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises errors of many kinds for a broken folder
        cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise ConfigError(f"student ({folder}): transformers cannot load its tokenizer: {cause}") from None


@contextmanager
def _only_errors() -> Iterator[None]:
    """No warnings of transformers: the generic tokenizer class and long texts are meant."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
