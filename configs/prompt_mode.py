"""The mode in which a domain is asked: its system message, and the arguments of the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from configs.blocks.strict import Strict

TemplateArguments = dict[str, bool | int | float | str]

SYSTEM = "system"
"""The role of a message that says how to answer."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("holds nothing but white space; write what the model is told, or leave it out")
    return text


class DeclaredMode(Strict):
    """What a domain says of the mode in which it is asked."""

    chat_template: TemplateArguments = Field(default={})
    """Arguments of the chat template for all that is asked of this domain, laid over the top-level
    `chat_template`, such as `{enable_thinking: true}` for Qwen3. An argument that the template does not
    read is refused."""
    system_prompt: Annotated[str, Field(min_length=1), AfterValidator(_not_blank)] | None = None
    """A system message before all that is asked of this domain: prompts, validation prompts and benchmark
    problems. One that has a system message already is refused."""

    def declared_mode(self) -> dict[str, Any]:
        """What is declared of it, as plain values; empty where nothing is."""
        own = {"chat_template": dict(self.chat_template), "system_prompt": self.system_prompt}
        return {name: value for name, value in own.items() if value}


@dataclass(frozen=True)
class PromptMode:
    """How prompts of one domain become the text that every model reads."""

    chat_template: Mapping[str, Any] = field(default_factory=dict)
    """All arguments of the chat template."""
    system_prompt: str | None = None

    @property
    def has_system(self) -> bool:
        """Whether it has a system message."""
        return self.system_prompt is not None

    def messages(self, asked: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
        """The chat messages, with the system message before them."""
        own = [] if self.system_prompt is None else [{"role": SYSTEM, "content": self.system_prompt}]
        return (*own, *(dict(message) for message in asked))

    def takes(self, asked: Sequence[Mapping[str, str]]) -> bool:
        """Whether these messages leave the system message to the mode, where it has one."""
        return self.system_prompt is None or all(message["role"] != SYSTEM for message in asked)

    def told(self) -> str:
        """In words; empty for a domain that is asked as the template does by itself."""
        arguments = ", ".join(f"{name}: {json.dumps(value)}" for name, value in self.chat_template.items())
        parts = [f"chat_template {{{arguments}}}"] * bool(arguments)
        parts += [f"system_prompt {json.dumps(self.system_prompt, ensure_ascii=False)}"] * self.has_system
        return ", ".join(parts)

    def key(self) -> str:
        """The same text for modes that ask alike: `1` and `true` are different arguments."""
        return json.dumps([dict(self.chat_template), self.system_prompt], sort_keys=True)


PLAIN = PromptMode()
"""A prompt as it stands, by the template as it is."""


def distinct(modes: Mapping[str, PromptMode]) -> list[PromptMode]:
    """Each mode once."""
    return list({mode.key(): mode for mode in modes.values()}.values())
