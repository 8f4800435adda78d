"""Prompts as the student reads them: its tokenizer, and the token ids up to where an answer begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.prompt_mode import PromptMode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encoded_messages(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Mapping[str, str]]],
    mode: PromptMode,
) -> list[list[int]]:
    """Token ids of each prompt (chat messages) in this mode, by the student's chat template."""
    encode: Callable[..., Any] = tokenizer.apply_chat_template
    how = {"add_generation_prompt": True, "return_dict": True, **mode.chat_template}
    return [encode(list(mode.messages(asked)), **how)["input_ids"] for asked in prompts]


def student_tokenizer(student: Path) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The student's tokenizer, and the ids that end an answer."""
    from transformers import AutoTokenizer

    from teachers.models.fingerprint import fingerprint

    return AutoTokenizer.from_pretrained(student), list(fingerprint(str(student)).eos_token_ids)
