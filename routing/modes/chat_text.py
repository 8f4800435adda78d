"""Prompts as the text that the student reads: by its chat template, in the mode of their domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from common.errors import ConfigError
from configs.prompt_mode import PromptMode
from routing.modes.bounded import broken_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]


class TemplateError(Exception):
    """The chat template refuses a prompt; in its own words."""


TRIAL_SECONDS, TRIAL_MEMORY = 10, 2 * 2**30
"""What a template may take for a prompt. Instructions of a hundred thousand characters take milliseconds."""

_tried: WeakKeyDictionary[PreTrainedTokenizerBase, set[str]] = WeakKeyDictionary()
"""The arguments with which a tokenizer's template has ended in time."""


def rendered(tokenizer: PreTrainedTokenizerBase, asked: Messages, mode: PromptMode) -> str:
    """The text up to where the answer begins; raises TemplateError.

    The first prompt with a template and its arguments is tried in a process of its own: a template is a
    program, and may not end.
    """
    render = partial(
        tokenizer.apply_chat_template,
        list(mode.messages(asked)),
        add_generation_prompt=True,
        tokenize=False,
        **mode.chat_template,
    )
    arguments = repr(sorted(mode.chat_template.items()))
    tried = _tried.setdefault(tokenizer, set())
    if arguments not in tried:
        if limit := broken_limit(render, TRIAL_SECONDS, TRIAL_MEMORY):
            raise TemplateError(limit)
        tried.add(arguments)
    try:
        text = render()
    except Exception as error:  # a template is a program, which fails in any way
        raise TemplateError(" ".join(str(error).split())[:300] or type(error).__name__) from None
    assert isinstance(text, str), "it was not asked for tokens"
    return text


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The student's tokenizer.

    Where tokenizer.json says all, its class is the one that loads without torch (4 s less). Raises
    ConfigError.
    """
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
def only_errors() -> Iterator[None]:
    """No warnings of transformers: the generic tokenizer class and long texts are meant."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


# --------------------------------------------------------------------------- what a mode changes

SHAPES = 8
"""Prompts of a domain that a mode is tried on, each with other roles than the others: some arguments are only
read where a conversation has several turns."""


def unlike(prompts: Iterable[Messages]) -> list[Messages]:
    """The first prompt of each order of roles, `SHAPES` at most."""
    found: dict[tuple[str, ...], Messages] = {}
    for messages in prompts:
        found.setdefault(tuple(message["role"] for message in messages), messages)
        if len(found) == SHAPES:
            break
    return list(found.values())


def reads(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], mode: PromptMode, argument: str
) -> bool:
    """Whether this argument of the mode can change the text of any of these prompts.

    A value that the template takes for granted is read too: `enable_thinking: true` is what Qwen3 does
    by itself. So the argument is compared with none and with another value of its type. Raises TemplateError
    where the template refuses a prompt in this mode.
    """
    value = mode.chat_template[argument]
    without = {name: own for name, own in mode.chat_template.items() if name != argument}
    others = [without, {**without, argument: _another(value)}]
    for asked in prompts:
        text = rendered(tokenizer, asked, mode)
        if any(_differs(tokenizer, asked, replace(mode, chat_template=other), text) for other in others):
            return True
    return False


def says(tokenizer: PreTrainedTokenizerBase, asked: Messages, mode: PromptMode) -> bool:
    """Whether the system message of the mode is in the text of this prompt; raises TemplateError."""
    return _differs(tokenizer, asked, replace(mode, system_prompt=None), rendered(tokenizer, asked, mode))


def _another(value: bool | int | float | str) -> bool | int | float | str:
    if isinstance(value, bool):
        return not value
    return f"{value} not" if isinstance(value, str) else value + 1


def _differs(tokenizer: PreTrainedTokenizerBase, asked: Messages, mode: PromptMode, text: str) -> bool:
    """Whether the prompt has another text in this mode; a template that refuses a value has read it."""
    try:
        return rendered(tokenizer, asked, mode) != text
    except TemplateError:
        return True


def arguments_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Names that the template reads and nothing gives it but arguments; empty where it cannot be told."""
    import jinja2
    from jinja2 import meta

    try:
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
        names = meta.find_undeclared_variables(environment.parse(str(tokenizer.get_chat_template())))
    except (jinja2.TemplateError, ValueError):
        return []
    return sorted(names - GIVEN - tokenizer.special_tokens_map.keys())


GIVEN = {
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("raise_exception", "strftime_now", "bos_token", "eos_token", "unk_token", "pad_token", "sep_token"),
    *("cls_token", "mask_token", "additional_special_tokens"),
}
"""What transformers gives every template."""
