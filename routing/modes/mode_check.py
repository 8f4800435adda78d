"""Whether the student's chat template takes the modes of a config: an option that does nothing is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.prompt_mode import PLAIN, PromptMode
from configs.schema import MergeConfig
from routing.modes.chat_text import (
    Messages,
    TemplateError,
    arguments_of,
    load_tokenizer,
    only_errors,
    reads,
    rendered,
    says,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION: Messages = ({"role": "user", "content": "What is 1+1?"},)
"""Stands for the prompts of a domain of which none is known."""


def refused_modes(
    config: MergeConfig, student: Path, prompts: Mapping[str, Sequence[Messages]] | None = None
) -> list[str]:
    """What is wrong with the modes, one message each: arguments that change no prompt's text, system messages
    that the template refuses or leaves out.

    `prompts` are some of each domain, unlike each other. Raises ConfigError for a tokenizer that cannot be
    loaded.
    """
    modes = config.prompt_modes()
    if all(mode == PLAIN for mode in modes.values()):
        return []
    with only_errors():
        tokenizer = load_tokenizer(student)
        asked = {name: (prompts or {}).get(name) or [QUESTION] for name in modes}
        return list(
            _Modes(config, modes, f"the student's chat template ({student})", tokenizer, asked).problems()
        )


class _Modes:
    """The modes of a config, tried on prompts."""

    def __init__(
        self,
        config: MergeConfig,
        modes: Mapping[str, PromptMode],
        template: str,
        tokenizer: PreTrainedTokenizerBase,
        asked: Mapping[str, Sequence[Messages]],
    ) -> None:
        self.config, self.modes, self.template = config, modes, template
        self.tokenizer, self.asked = tokenizer, asked

    def problems(self) -> Iterator[str]:
        """In the config's order, the shared arguments first."""
        failing = dict(self._failing())
        able = [name for name in self.modes if name not in failing]
        for argument, value in self.config.chat_template.items():
            users = [name for name in self.modes if argument not in self.config.domains[name].chat_template]
            if not users:
                yield (
                    f"chat_template.{argument}: every domain has its own, so this one does nothing; leave it "
                    "out"
                )
            elif not set(users) & failing.keys() and not any(self._reads(name, argument) for name in users):
                yield self._unread(f"chat_template.{argument}", argument, value)
        for name in able:
            for argument, value in self.config.domains[name].chat_template.items():
                if not self._reads(name, argument):
                    yield self._unread(f"domains.{name}.chat_template.{argument}", argument, value)
            if self.modes[name].has_system and not self._says(name):
                yield (
                    f"domains.{name}.system_prompt: {self.template} leaves system messages out, so it would "
                    "do nothing; leave it out"
                )
        yield from failing.values()

    def _failing(self) -> Iterator[tuple[str, str]]:
        """The domains whose mode the template refuses, and why. A prompt that it refuses as it stands is no
        matter of the mode."""
        for name, mode in self.modes.items():
            asked = self.asked[name][0]
            if self._refusal(asked, PLAIN) is not None or (told := self._refusal(asked, mode)) is None:
                continue
            if self._refusal(asked, replace(mode, system_prompt=None)) is None:
                yield name, f"domains.{name}.system_prompt: {self.template} takes no system message: {told}"
            else:
                own = self.config.domains[name].chat_template
                place = f"domains.{name}.chat_template" if own else "chat_template"
                yield name, f"{place}: {self.template} refuses {mode.told()}: {told}"

    def _refusal(self, asked: Messages, mode: PromptMode) -> str | None:
        try:
            rendered(self.tokenizer, asked, mode)
        except TemplateError as error:
            return str(error)
        return None

    def _reads(self, name: str, argument: str) -> bool:
        try:
            return reads(self.tokenizer, self.asked[name], self.modes[name], argument)
        except TemplateError:  # a prompt that it refuses is named where lengths are measured
            return True

    def _says(self, name: str) -> bool:
        try:
            return says(self.tokenizer, self.asked[name][0], self.modes[name])
        except TemplateError:  # as above
            return True

    def _unread(self, place: str, argument: str, value: object) -> str:
        known = arguments_of(self.tokenizer)
        if argument in known:
            return (
                f"{place}: {self.template} makes the same text of every prompt with {json.dumps(value)}, "
                "with another value of its type and with none, so it would do nothing; give a value that the "
                "template reads, or leave it out"
            )
        valid = f"it reads: {', '.join(known)}" if known else "it reads none"
        return f"{place}: {self.template} does not read this argument, so it would do nothing ({valid})"
