"""Whether an expected answer can be met at all, asked of every row before anything is trained."""

from __future__ import annotations

from typing import Any

from eval.grading.answer_graders import Settings, as_block, unusable_answer
from eval.grading.graders import as_text, is_number
from eval.grading.maths.grading import last_boxed


def unusable(settings: Settings, answer: Any) -> str:
    """Why no completion could be right, or judged, with this expected answer; empty if one could."""
    block = as_block(settings)
    named = {"math": _math, "number": _number, "exact": _exact, "code": _code}.get(block["kind"])
    return named(answer) if named is not None else unusable_answer(settings, answer)


def _math(answer: Any) -> str:
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return f"the answer must be text or a number, it is {_shown(answer)}"
    text = as_text(answer)
    if not text.strip():
        return "the answer is empty"
    if last_boxed(f"\\boxed{{{text}}}") != text:
        return f"the answer {text[:60]!r} cannot stand in \\boxed{{}}: its braces do not match"
    return ""


def _number(answer: Any) -> str:
    if isinstance(answer, bool) or not is_number(as_text(answer).strip()):
        return f"the answer {_shown(answer)} is no number"
    return ""


def _exact(answer: Any) -> str:
    return "" if as_text(answer).strip() else "the answer is empty, so an empty completion would be right"


CODE_FIELDS = {"prefix", "entry_point", "tests"}


def _code(answer: Any) -> str:
    if not isinstance(answer, dict):
        text = " (as text: give it as an object)" if isinstance(answer, str) else ""
        return f"the answer must be an object with entry_point and tests, it is {_shown(answer)}{text}"
    if not {"entry_point", "tests"} <= answer.keys() <= CODE_FIELDS:
        fields = ", ".join(map(str, answer)) or "nothing"
        return f"the answer must have entry_point, tests and perhaps prefix; it has {fields}"
    if not isinstance(answer["entry_point"], str) or not answer["entry_point"].isidentifier():
        return f"entry_point must be the name of a function, it is {_shown(answer['entry_point'])}"
    if not isinstance(answer.get("prefix", ""), str):
        return f"prefix must be text, it is {_shown(answer['prefix'])}"
    tests = answer["tests"]
    if not isinstance(tests, list) or not tests:
        return "tests must be a list with at least one test"
    for number, test in enumerate(tests, 1):
        if not isinstance(test, dict) or "output" not in test or not isinstance(test.get("input"), list):
            return f'test {number} is not {{"input": [argument, ...], "output": value}}: {_shown(test)}'
    return ""


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
