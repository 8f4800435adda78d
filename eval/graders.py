"""Judges of single answers: mathematics by math-verify, exact text, and programs out of prose.

math-verify runs in a helper process (`eval.math_worker`), so that grading works from any thread and an
endless computation can be killed; its own time limits use signals, which only a main thread can. What is
known to take it long (towers of powers, huge factorials, integrals, deep nesting, long texts) is refused
before: as an answer it is wrong, and the detail says why.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from eval.records import Completion, Grade, Verdict
from eval.workers import Worker, WorkerLost, WorkerTimeout

TIMEOUT_S = 10.0
"""Wall-clock limit of one comparison, its helper's start included; usual are 1 to 50 ms."""

MAX_ANSWER_CHARS = 400
MAX_NESTING = 12
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 1_000
MAX_DIGITS = 100
MAX_EXPANSION = 50

BOX = r"\boxed{"


def grade_math(completion: Completion, answer: str) -> Grade:
    """Judge the last `\\boxed{}` of an answer against the expected value.

    answer: the expected value as LaTeX or plain text, without a box. An unfinished answer and one without
    a box fail. UNSCORED: the expected value cannot be parsed, or math-verify fails.
    """
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    content = last_boxed(completion.text)
    if content is None:
        return Grade(Verdict.FAIL, "no \\boxed{}")
    content, answer = content.strip(), str(answer).strip()
    if not content:
        return Grade(Verdict.FAIL, "empty \\boxed{}")
    shown = f"answered {content[:60]}"
    if _is_integer(content) and _is_integer(answer):
        return Grade(Verdict.PASS if int(content) == int(answer) else Verdict.FAIL, shown)
    refusal = reason_to_refuse(content)
    if refusal and content != answer:
        return Grade(Verdict.FAIL, f"refused: {refusal}")
    if refusal:
        return Grade(Verdict.PASS, shown)
    return _verify(content, answer, shown)


def grade_exact(completion: Completion, answer: Any) -> Grade:
    """Judge an answer that must be the expected text, but for white space around it."""
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    given = completion.text.strip()
    verdict = Verdict.PASS if given == str(answer).strip() else Verdict.FAIL
    return Grade(verdict, f"answered {given[:60]}")


_NUMBER = re.compile(r"(?:(?<![0-9])[-+])?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")


def grade_number(completion: Completion, answer: Any) -> Grade:
    """Judge the last number of an answer ("12 + 70 = 82."), for models that use no box.

    answer: the expected number. UNSCORED: it is no number.
    """
    expected = _as_number(str(answer).strip())
    if expected is None:
        return Grade(Verdict.UNSCORED, f"the expected answer {str(answer)[:60]!r} is no number")
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    found = [match.group() for match in _NUMBER.finditer(completion.text)]
    if not found:
        return Grade(Verdict.FAIL, "no number")
    verdict = Verdict.PASS if _as_number(found[-1]) == expected else Verdict.FAIL
    return Grade(verdict, f"answered {found[-1][:60]}")


def is_number(text: str) -> bool:
    """Whether `grade_number` can compare with this expected answer."""
    return _as_number(text.strip()) is not None


def _as_number(text: str) -> Decimal | None:
    return Decimal(text.replace(",", "")) if text.isascii() and _NUMBER.fullmatch(text) else None


def as_text(answer: object) -> str:
    """An expected answer as text; a whole number stored as a float loses its point."""
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)


def extract_program(text: str) -> str:
    """The last fenced block of a text, up to its end if the fence is not closed; else the whole text."""
    block = last_fence(text)
    return text if block is None else block


def last_fence(text: str) -> str | None:
    """Content of the last fenced block, up to the text's end if it is not closed; None if there is none."""
    blocks = re.findall(r"```[^\n`]*\n(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    return blocks[-1] if blocks else None


def last_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{}`, None if there is none or its brace is never closed."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    start += len(BOX)
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[start:], flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


# ------------------------------------------------------------------------------------------- guards

_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")
_POWER = re.compile(r"(\d+)(?:\^|\*\*)(?:\{(\d+)\}|\((\d+)\)|(\d+))")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*(\{|\(|\\left\(|[-+]?[\d.]+|)")


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None


def reason_to_refuse(expression: str) -> str:
    """Why an expression could take math-verify long; empty if it could not."""
    if len(expression) > MAX_ANSWER_CHARS:
        return f"longer than {MAX_ANSWER_CHARS} characters"
    if _nesting(expression) > MAX_NESTING:
        return f"nested deeper than {MAX_NESTING}"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", expression):
        return f"a number of more than {MAX_DIGITS} digits"
    if operator := re.search(r"\\(i*int|oint|sum|prod|lim|bigcup|bigcap)(?![a-zA-Z])", expression):
        return f"an unevaluated {operator.group()}"
    compact = re.sub(r"\s|\\left|\\right|\\,|\\!(?=.)", "", expression)
    if "!" in compact and _factorial_is_large(compact):
        return f"a factorial beyond {MAX_FACTORIAL}!"
    numbers = [int(n) for n in re.findall(r"\d+", compact)]
    if re.search(r"binom|choose", compact) and max(numbers, default=0) > MAX_FACTORIAL:
        return f"a binomial coefficient beyond {MAX_FACTORIAL}"
    if _exponent(compact) > MAX_EXPONENT:
        return f"an exponent beyond {MAX_EXPONENT}"
    if any(int(n) > MAX_EXPANSION for n in re.findall(r"[a-zA-Z][^()]*\)(?:\^|\*\*)[{(]?(\d+)", compact)):
        return f"a power of a bracket beyond {MAX_EXPANSION}"
    return ""


def _nesting(expression: str) -> int:
    depth = deepest = 0
    for character in expression:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _factorial_is_large(compact: str) -> bool:
    """A large argument, a factorial of a factorial or of a power, or of a bracket with a number above 20."""
    if re.search(r"![)}]*!|\^(\{[^{}]*\}|\d+)!", compact):
        return True
    if any(int(n) > MAX_FACTORIAL for n in re.findall(r"(\d+)!", compact)):
        return True
    brackets = re.findall(r"[({]([^(){}]*)[)}]!", compact) + re.findall(r"[)}]!", compact)
    return any("^" in b or "*" in b or any(int(n) > 20 for n in re.findall(r"\d+", b)) for b in brackets)


def _exponent(compact: str) -> float:
    """Upper estimate of the exponents in an expression, powers of powers multiplied.

    Numeric powers inside of exponents are evaluated first; an exponent of several factors counts as
    their product.
    """
    innermost_first = compact
    for _ in range(MAX_NESTING):
        collapsed = _POWER.sub(_collapse_in_exponent, innermost_first)
        if collapsed == innermost_first:
            break
        innermost_first = collapsed
    exponents = [_size(innermost_first, match) for match in _EXPONENT.finditer(innermost_first)]
    is_chained = re.search(r"[)}\]](?:\^|\*\*)", compact) is not None
    if is_chained and len(exponents) > 1:
        return math.prod(max(1.0, e) for e in exponents)
    return max(exponents, default=0.0)


def _collapse_in_exponent(match: re.Match[str]) -> str:
    """A power as its value where it stands in an exponent, unchanged elsewhere."""
    before = match.string[: match.start()]
    opened = max(before.rfind("^{"), before.rfind("^("), before.rfind("**("), before.rfind("**{"))
    in_bracket = opened >= 0 and not re.search(r"[)}]", before[opened:])
    if not in_bracket and not before.endswith(("^", "**")):
        return match.group()
    base, exponent = int(match.group(1)), int(match.group(2) or match.group(3) or match.group(4))
    digits = exponent * math.log10(max(base, 1))
    return str(base**exponent) if digits <= 12 else "9" * 12


def _size(expression: str, match: re.Match[str]) -> float:
    """Product of the numbers in the exponent that starts at `match`."""
    opener = match.group(1)
    if opener[:1] in ("{", "("):
        start, depth = match.end(), 1
        for end in range(start, len(expression)):
            depth += (expression[end] in "({") - (expression[end] in ")}")
            if depth == 0:
                break
        else:
            end = len(expression)
        text = expression[start:end]
    else:
        text = opener
    return math.prod(max(1.0, float(n)) for n in re.findall(r"\d+(?:\.\d+)?", text))


# -------------------------------------------------------------------------------------- math-verify

_worker = Worker("eval.math_worker")


def _verify(content: str, answer: str, shown: str) -> Grade:
    for _attempt in range(2):
        try:
            reply = _worker.ask({"expected": answer, "given": content}, TIMEOUT_S)
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
    return Grade(Verdict.UNSCORED, f"math-verify failed: {reply.get('error')}")


def _judge_timeout(answer: str) -> Grade:
    """An answer that took too long is wrong if the expected one can be judged in the same conditions."""
    try:
        reply = _worker.ask({"expected": answer, "given": answer}, TIMEOUT_S)
    except (WorkerTimeout, WorkerLost) as error:
        return Grade(Verdict.UNSCORED, f"math-verify cannot judge the expected answer {answer[:60]}: {error}")
    if reply.get("result") != "right":
        return Grade(Verdict.UNSCORED, f"the expected answer does not equal itself: {answer[:60]}")
    return Grade(Verdict.FAIL, f"not judged within {TIMEOUT_S:g} s")
