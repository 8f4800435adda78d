"""Answers that must not be right: constants, the prompt itself, the answer to another row.

Reinforcement learning finds a reward that accepts them. They are tried before anything is trained.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.grading.answer_graders import WRITTEN, Settings, as_block
from eval.grading.graders import as_text

ROWS = 16
"""Most rows that decoys are tried on, spread over all."""
ENOUGH_ROWS = 8
"""Of fewer rows nothing is said."""
SECONDS = 5.0
"""When this time is over no further row is begun."""

CONSTANT, PROMPT, OTHER = "one constant answer", "the prompt itself", "another row's answer"
REFUSED_FROM = {CONSTANT: 0.9, PROMPT: 0.5, OTHER: 0.9}
WARNED_FROM = {CONSTANT: 0.5, PROMPT: 0.05, OTHER: 0.5}
"""Mean scores of a decoy, in which partial credit counts. A constant is right on half of all yes-or-no
questions."""

TEXTS = ("0", "1", "yes", "True", "None", "()", "nan", "")
PROGRAMS = ("None", "0", "True", "''", "[]", "a[0]")
JSON_TEXTS = ("null", "{}", "[]", "0", '""')

Judge = Callable[[str, Any], float | None]
"""(completion, answer) -> score in [0, 1]; None where nobody could judge."""


@dataclass
class Outcome:
    """What each decoy scored."""

    rows: int = 0
    has_one_answer: bool = True
    """Whether all rows that were tried expect the same: then a constant is right, whatever the reward."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """By kind and decoy, the sum of its scores."""

    def shares(self) -> dict[str, tuple[str, float]]:
        """By kind, the most successful decoy and its mean score."""
        best = {
            kind: max(found.items(), key=lambda item: item[1]) for kind, found in self.scores.items() if found
        }
        return {kind: (decoy, total / self.rows) for kind, (decoy, total) in best.items() if self.rows}


def try_decoys(settings: Settings, rows: Sequence[tuple[str, Any]], judge: Judge) -> Outcome:
    """Tries every decoy on some of the rows, each (prompt's text, expected answer)."""
    outcome, until = Outcome(), time.monotonic() + SECONDS
    some = random.Random(0).sample(range(len(rows)), min(ROWS, len(rows)))
    for place, neighbour in zip(some, [*some[1:], *some[:1]], strict=True):
        if time.monotonic() > until:
            break
        prompt, answer = rows[place]
        outcome.rows += 1
        outcome.has_one_answer &= answer == rows[some[0]][1]
        for kind, of_kind in _decoys(as_block(settings), prompt, answer, rows[neighbour][1]).items():
            found = outcome.scores.setdefault(kind, {})
            for name, completions in of_kind.items():
                best = max(judge(completion, answer) or 0.0 for completion in completions)
                found[name] = found.get(name, 0.0) + best
    return outcome


def _decoys(block: dict[str, Any], prompt: str, answer: Any, other: Any) -> dict[str, dict[str, list[str]]]:
    """By kind and name the completions of each decoy."""
    kind = block["kind"]
    if kind == "code":
        name = answer["entry_point"]
        programs = {f"return {v}": [f"```python\ndef {name}(*a): return {v}\n```"] for v in PROGRAMS}
        return {CONSTANT: programs}

    def written(text: str) -> str:
        return _WRITE[kind](block, text) if kind in _WRITE else text

    constants = JSON_TEXTS if kind == "json_schema" else TEXTS
    texts = {prompt, prompt.strip().split("\n")[-1], _expression(prompt)} - {""}
    found = {
        CONSTANT: {repr(text): [written(text)] for text in constants},
        PROMPT: {"whole, or what is to be computed": [written(text) for text in sorted(texts)]},
    }
    text = _as_answer(kind, other)
    if text is not None and text != _as_answer(kind, answer):
        found[OTHER] = {"drawn at random": [written(text)]}
    return found


_WRITE: dict[str, Callable[[dict[str, Any], str], str]] = {
    "math": lambda _block, text: f"\\boxed{{{text}}}",
    "json_schema": lambda block, text: f"```json\n{text}\n```" if block["extract"] == "fence" else text,
    "reasoning_gym": lambda block, text: WRITTEN[block["answer"]].format(text),
}
"""How an answer is written so that it is found."""


def _expression(prompt: str) -> str:
    """The longest part of a prompt that looks like something to compute."""
    found = re.findall(r"[\d(][\d\s+\-*/^().,\u00d7\u00f7]*[\d)]", prompt)
    return max((part for part in found if re.search(r"[+\-*/^\u00d7\u00f7]", part)), key=len, default="")


def _as_answer(kind: str, answer: Any) -> str | None:
    """A row's expected answer as a model would write it; None where it has no text."""
    if kind == "json_schema":
        return json.dumps(answer)
    if kind == "reasoning_gym":
        from configs.blocks.gym import unpack

        text = unpack(answer["entry"]).get("answer")
        return text if isinstance(text, str) else None
    return as_text(answer) if isinstance(answer, str | int | float) else None
