"""Judges answers in mathematics: the last `\\boxed{}` against the expected value, exactly.

Both are read once (`eval.grading.maths.reading`). Where a number is expected, a number must be answered, and
they are compared as fractions. Everything else is judged in helper processes (`eval.grading.maths.worker`),
which can be killed: closed expressions by their exact values, the rest by math-verify.
"""

from __future__ import annotations

import re
from typing import Any

from eval.grading.maths.limits import reason_to_refuse, unevaluated_operator
from eval.grading.maths.reading import normal
from eval.grading.maths.writing import judged_as_written
from eval.grading.workers import WorkerLost, WorkerPool, WorkerTimeout
from eval.records import Completion, Grade, Verdict

TIMEOUT_S = 10.0
"""Wall-clock limit of one comparison, its helper's start included; usual are 1 to 50 ms."""

VERDICTS = 3
"""Raised when the same pair may get another verdict: stored verdicts of benchmarks are then made again."""

MAX_READ_CHARS = 10_000
"""Longer answers are not read; the longest expected answers of the published sets have a few hundred."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def grade_math(completion: Completion, answer: str) -> Grade:
    """Judge the last `\\boxed{}` of an answer against the expected value.

    answer: the expected value as LaTeX or plain text, without a box. An unfinished answer and one without
    a box fail. UNSCORED: the expected value cannot be parsed, or nothing here can judge the two.
    """
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    content = last_boxed(completion.text)
    if content is None:
        return Grade(Verdict.FAIL, "no \\boxed{}")
    content = content.strip()
    if not content:
        return Grade(Verdict.FAIL, "empty \\boxed{}")
    if len(content) > MAX_READ_CHARS:
        return Grade(Verdict.FAIL, f"refused: longer than {MAX_READ_CHARS} characters")
    return _compared(normal(content), normal(str(answer)), f"answered {content[:60]}")


def last_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{}`, None if there is none or its brace is never closed."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start, depth = boxes[-1].end(), 1
    for match in re.finditer(r"\\.|[{}]", text[start:], flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


def _compared(given: str, expected: str, shown: str) -> Grade:
    """Two normal texts: by what is written, or by the helper."""
    is_right = judged_as_written(expected, given)
    refusal = "" if is_right else reason_to_refuse(given)
    if is_right is not None:
        return Grade(Verdict.PASS if is_right else Verdict.FAIL, f"refused: {refusal}" if refusal else shown)
    if refusal and not reason_to_refuse(expected):
        # an ordinary value is expected: what is left to compute is no answer, as `12+70` is none
        return Grade(Verdict.FAIL, f"refused: {refusal}")
    return _verify(given, expected, shown)


# -------------------------------------------------------------------------------------- the helper

_workers = WorkerPool("eval.grading.maths.worker")


def _verify(content: str, answer: str, shown: str) -> Grade:
    reply: dict[str, Any] = {}
    for _attempt in range(2):
        try:
            reply = _workers.ask({"expected": answer, "given": content}, TIMEOUT_S)
        except WorkerTimeout:
            return _judge_timeout(answer)
        except WorkerLost as error:
            reply = {"error": str(error)}
        else:
            break
    match reply.get("result"):
        case "right":
            return Grade(Verdict.PASS, shown)
        case "wrong":
            return Grade(Verdict.FAIL, shown)
        case "given unparsed":
            return Grade(Verdict.FAIL, f"cannot be parsed: {content[:60]}")
        case "expected unparsed":
            return Grade(Verdict.UNSCORED, f"the expected answer cannot be parsed: {answer[:60]}")
        case "undecided":
            operator = unevaluated_operator(answer) or "form"
            return Grade(Verdict.UNSCORED, f"the expected {operator} is neither equal nor different for sure")
    return Grade(Verdict.UNSCORED, f"math-verify failed: {reply.get('error')}")


def _judge_timeout(answer: str) -> Grade:
    """An answer that took too long is wrong if the expected one can be judged in the same conditions."""
    try:
        reply = _workers.ask({"expected": answer, "given": answer}, TIMEOUT_S)
    except (WorkerTimeout, WorkerLost) as error:
        return Grade(Verdict.UNSCORED, f"math-verify cannot judge the expected answer {answer[:60]}: {error}")
    if reply.get("result") != "right":
        return Grade(Verdict.UNSCORED, f"the expected answer does not equal itself: {answer[:60]}")
    return Grade(Verdict.FAIL, f"not judged within {TIMEOUT_S:g} s")
