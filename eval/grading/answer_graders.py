"""Graders that a config declares: a shipped one by name, or a block (`configs.blocks.rewards`).

They give a number in [0, 1], or none where nobody could judge. `teachers.rewards` trains on it, the benchmark
kind `graded` holds it against its pass mark. What a model's text could keep busy for ever, and what is not
our own code, runs in helper processes (`eval.grading.answer_worker`) that can be killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.blocks.rewards import compiled_pattern
from eval.grading.answer_worker import INVALID
from eval.grading.graders import as_text, grade_exact, grade_number
from eval.grading.maths.grading import last_boxed
from eval.grading.programs import last_fence
from eval.grading.workers import Worker, WorkerLost, WorkerTimeout
from eval.records import Completion, Grade, Verdict

REGEX_LIMIT_S = 2.0
"""Processor time of one match."""
SCHEMA_LIMIT_S = 10.0
GYM_LIMIT_S = 30.0
"""Wall-clock limit of one answer, the helper's start and the package's import included."""
PYTHON_LIMIT_S = 60.0
"""For one call of a user's function, its file's first run included."""


@dataclass(frozen=True)
class Score:
    """What an answer is worth."""

    value: float | None
    """In [0, 1]; None: it could not be judged, which says nothing about the answer."""
    detail: str
    """Why, in a few words."""

    def grade(self, pass_mark: float = 1.0) -> Grade:
        """The verdict of a benchmark: right from the pass mark on."""
        if self.value is None:
            return Grade(Verdict.UNSCORED, self.detail)
        return Grade(Verdict.PASS if self.value >= pass_mark else Verdict.FAIL, self.detail)


Settings = str | dict[str, Any]
"""A grader as `configs.blocks.rewards.grader_settings` has it."""


def score(settings: Settings, completion: Completion, answer: Any) -> Score:
    """The score of an answer to a problem whose expected answer is `answer` (a JSON value).

    No text of a model raises, and none makes the score None where the same grader judges the expected answer.
    """
    block = as_block(settings)
    return GRADERS[block["kind"]](block, completion, answer)


def as_block(settings: Settings) -> dict[str, Any]:
    """The settings as a block, also those of a grader that is given by its name alone."""
    return {"kind": settings} if isinstance(settings, str) else settings


# -------------------------------------------------------------------------------------------- kinds


def _exact(_settings: dict[str, Any], completion: Completion, answer: Any) -> Score:
    return _from_grade(grade_exact(completion, answer))


def _number(_settings: dict[str, Any], completion: Completion, answer: Any) -> Score:
    return _from_grade(grade_number(completion, answer))


def _from_grade(grade: Grade) -> Score:
    value = {Verdict.PASS: 1.0, Verdict.FAIL: 0.0, Verdict.UNSCORED: None}[grade.verdict]
    return Score(value, grade.detail)


def _regex(settings: dict[str, Any], completion: Completion, answer: Any) -> Score:
    if not completion.finished:
        return Score(0.0, "truncated")
    try:
        match = _match(settings, completion.text)
    except TimeoutError:
        return _slow_pattern(settings, answer)
    if match is None:
        return Score(0.0, "no match")
    if settings["group"] is None:
        return Score(1.0, "matched")
    given = (match.group(settings["group"]) or "").strip()
    return Score(float(given == as_text(answer).strip()), f"answered {given[:60]}")


def _match(settings: dict[str, Any], text: str) -> Any:
    """The match that counts, or None; raises TimeoutError."""
    pattern = _compiled(settings["pattern"], tuple(settings["flags"]))
    if settings["match"] == "full":
        return pattern.fullmatch(text.strip(), timeout=REGEX_LIMIT_S)
    if settings["match"] == "first":
        return pattern.search(text, timeout=REGEX_LIMIT_S)
    last = None
    for match in pattern.finditer(text, timeout=REGEX_LIMIT_S):
        last = match
    return last


_compiled = lru_cache(maxsize=64)(compiled_pattern)


def _slow_pattern(settings: dict[str, Any], answer: Any) -> Score:
    """A text that keeps the pattern busy is wrong if the pattern is done in time with a plain text."""
    try:
        _match(settings, as_text(answer))
    except TimeoutError:
        return Score(None, f"pattern {settings['pattern']!r} needs more than {REGEX_LIMIT_S:g} s on any text")
    return Score(0.0, f"not matched within {REGEX_LIMIT_S:g} s")


def _json_schema(settings: dict[str, Any], completion: Completion, answer: Any) -> Score:
    if not completion.finished:
        return Score(0.0, "truncated")
    text = last_fence(completion.text) if settings["extract"] == "fence" else completion.text
    if text is None:
        return Score(0.0, "no fenced block")
    question = {"schema": settings["schema"], "compare": settings["compare_answer"], "answer": answer}
    try:
        reply = _ask(_worker("json_schema"), {**question, "text": text}, SCHEMA_LIMIT_S)
    except (WorkerTimeout, WorkerLost) as error:
        return _control(
            _worker("json_schema"), {**question, "text": "null"}, SCHEMA_LIMIT_S, f"not validated: {error}"
        )
    return _from_reply(reply)


def _python(settings: dict[str, Any], completion: Completion, answer: Any) -> Score:
    """An error of the user's function, even a second time alone, leaves the answer unjudged."""
    worker, function = _python_helper(settings)
    question = {**function, "text": completion.text, "answer": answer, "finished": completion.finished}
    found = _call(worker, question)
    if found.value is None:
        found = _call(worker, question)
    if found.value is None:
        return Score(None, f"{Path(settings['path']).name}: {settings['function']}: {found.detail}")
    if not completion.finished:
        return Score(found.value, "truncated")
    return found


def _call(worker: Worker, question: dict[str, Any]) -> Score:
    try:
        return _from_reply(worker.ask(question, PYTHON_LIMIT_S))
    except (WorkerTimeout, WorkerLost) as error:
        return Score(None, str(error))


def _reasoning_gym(settings: dict[str, Any], completion: Completion, answer: Any) -> Score:
    if not _is_row_of(settings["task"], answer):
        return Score(None, unusable_answer(settings, answer))
    if not completion.finished:
        return Score(0.0, "truncated")
    given = _PLACES[settings["answer"]](completion.text)
    if given is None or not given.strip():
        return Score(0.0, "no answer")
    question = {"answer": answer, "given": given.strip()}
    control = {"answer": answer, "given": None}  # the entry's own answer
    try:
        found = _from_reply(_ask(_worker("reasoning_gym"), question, GYM_LIMIT_S))
    except (WorkerTimeout, WorkerLost) as error:
        return _control(_worker("reasoning_gym"), control, GYM_LIMIT_S, f"not verified: {error}")
    if found.value is None:
        return _control(_worker("reasoning_gym"), control, GYM_LIMIT_S, f"not verified: {found.detail}")
    return Score(found.value, f"answered {given.strip()[:60]}")


def _last_line(text: str) -> str | None:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


_TAG, _END_TAG = "<answer>", "</answer>"


def last_tag(text: str) -> str | None:
    found, place = None, 0
    while (start := text.find(_TAG, place)) >= 0 and (end := text.find(_END_TAG, start)) >= 0:
        found, place = text[start + len(_TAG) : end], end + len(_END_TAG)
    return found


_PLACES: dict[str, Callable[[str], str | None]] = {
    "last_line": _last_line,
    "boxed": last_boxed,
    "tag": last_tag,
    "whole": lambda text: text,
}

WRITTEN = {"last_line": "{}", "boxed": "\\boxed{{{}}}", "tag": "<answer>{}</answer>", "whole": "{}"}
"""How an answer is written so that it is found in its place."""

GRADERS: dict[str, Callable[[dict[str, Any], Completion, Any], Score]] = {
    "exact": _exact,
    "number": _number,
    "regex": _regex,
    "json_schema": _json_schema,
    "python": _python,
    "reasoning_gym": _reasoning_gym,
}
"""Every grader that the kind `graded` can name, and every block that is a reward."""


# -------------------------------------------------------------------------------------------- checks


def unusable_answer(settings: Settings, answer: Any) -> str:
    """Why no completion could be right, or judged, with this expected answer; empty if one could."""
    block = as_block(settings)
    if block["kind"] == "reasoning_gym" and not _is_row_of(block["task"], answer):
        return (
            f"the answer is no entry of reasoning_gym's task {block['task']!r}, whose verifier judges "
            f"here; it is {_brief(answer)}"
        )
    if block["kind"] == "json_schema" and block["compare_answer"]:
        return _invalid(block["schema"], answer)
    return ""


def _invalid(schema: dict[str, Any], answer: Any) -> str:
    """Why the expected answer is not valid under the schema, whose patterns may take for ever; empty if it
    is."""
    question = {"schema": schema, "compare": False, "answer": None, "text": json.dumps(answer)}
    try:
        reply = _ask(_worker("json_schema"), question, SCHEMA_LIMIT_S)
    except (WorkerTimeout, WorkerLost) as error:
        return f"the answer cannot be held against the schema: {error}"
    if reply["value"]:
        return ""
    told = reply["detail"]
    place = f", at {told.removeprefix(INVALID)}" if told.startswith(INVALID) else f": {told}"
    return f"the answer is not valid under the schema{place}"


def unusable_grader(settings: Settings, answer: Any) -> str:
    """What is wrong with a grader that depends on other code than ours; empty if it judges.

    answer: what the problems have, such as the first one's.
    """
    block = as_block(settings)
    if block["kind"] == "python":
        problem = _unusable_function(block, answer)
        return problem and f"{block['path']}: {block['function']}: {problem}"
    if block["kind"] == "reasoning_gym":
        found = _control(_worker("reasoning_gym"), {"answer": answer, "given": None}, GYM_LIMIT_S, "")
        return found.detail if found.value is None else ""
    return ""


def _unusable_function(settings: dict[str, Any], answer: Any) -> str:
    worker, function = _python_helper(settings)
    try:
        reply = worker.ask({**function, "check": True, "answer": answer}, PYTHON_LIMIT_S)
    except (WorkerTimeout, WorkerLost) as error:
        return str(error)
    return reply.get("error", "")


def _is_row_of(task: str, answer: Any) -> bool:
    fields = {"task", "parameters", "entry"}
    return isinstance(answer, dict) and answer.keys() == fields and answer["task"] == task


def _brief(answer: Any) -> str:
    if isinstance(answer, dict) and "task" in answer:
        return f"one of {answer['task']!r}"
    return f"{answer!r:.60}"


# ------------------------------------------------------------------------------------------- helpers


@lru_cache(maxsize=32)
def _worker(kind: str, *, of: str = "") -> Worker:
    """The helper of a kind; each user's function has one of its own."""
    return Worker("eval.grading.answer_worker", [kind])


def _python_helper(settings: dict[str, Any]) -> tuple[Worker, dict[str, Any]]:
    """The helper of a user's function, and what each question tells of it."""
    function = {name: settings[name] for name in ("source", "path", "function")}
    return _worker("python", of=json.dumps(function)), function


def _ask(worker: Worker, question: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """The reply, asked a second time where the helper was lost; raises WorkerTimeout or WorkerLost."""
    try:
        return worker.ask(question, limit_s)
    except WorkerLost:
        return worker.ask(question, limit_s)


def _from_reply(reply: dict[str, Any]) -> Score:
    if "error" in reply:
        return Score(None, reply["error"])
    return Score(reply["value"], reply["detail"])


def _control(worker: Worker, question: dict[str, Any], limit_s: float, detail: str) -> Score:
    """An answer that could not be judged is wrong if the grader judges a plain one in the same conditions."""
    try:
        reply = worker.ask(question, limit_s)
    except (WorkerTimeout, WorkerLost) as error:
        reply = {"error": str(error)}
    if "error" in reply:
        return Score(None, f"{detail}; nor is a plain answer judged: {reply['error']}"[:300])
    return Score(0.0, detail[:200])
