"""Judges of single answers: mathematics by math-verify, exact text, and programs out of prose.

math-verify runs without its own time limits, which use signals and so work in a main thread only. What
can take it long (towers of powers, huge factorials, deep nesting, long texts) is refused before it is
parsed: as an answer it is wrong, and the detail says why.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from typing import Any

from eval.records import Completion, Grade, Verdict

MAX_ANSWER_CHARS = 400
MAX_NESTING = 12
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 1_000
MAX_DIGITS = 100

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


def extract_program(text: str) -> str:
    """The last fenced block of a text, up to its end if the fence is not closed; else the whole text."""
    blocks = re.findall(r"```[^\n`]*\n(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    return blocks[-1] if blocks else text


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
    compact = re.sub(r"\s|\\left|\\right|\\,|\\!(?=.)", "", expression)
    if "!" in compact and _factorial_is_large(compact):
        return f"a factorial beyond {MAX_FACTORIAL}!"
    if re.search(r"binom|choose", compact) and any(int(n) > MAX_FACTORIAL for n in re.findall(r"\d+", compact)):
        return f"a binomial coefficient beyond {MAX_FACTORIAL}"
    if _exponent(compact) > MAX_EXPONENT:
        return f"an exponent beyond {MAX_EXPONENT}"
    return ""


def _nesting(expression: str) -> int:
    depth = deepest = 0
    for character in expression:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _factorial_is_large(compact: str) -> bool:
    """A large argument, a factorial of a factorial, or of a bracket that holds a number above 20."""
    if re.search(r"![)}]*!", compact):
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

_lock = threading.Lock()  # the parser's shared tables are not made for threads


def _reset_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_lock)


def _verify(content: str, answer: str, shown: str) -> Grade:
    try:
        with _lock:
            expected = _parse(answer)
            if not expected:
                return Grade(Verdict.UNSCORED, f"the expected answer cannot be parsed: {answer[:60]}")
            given = _parse(content)
            if not given:
                return Grade(Verdict.FAIL, f"cannot be parsed: {content[:60]}")
            from math_verify import verify

            right = verify(expected, given, timeout_seconds=None)
    except Exception as error:
        return Grade(Verdict.UNSCORED, f"math-verify failed: {type(error).__name__}: {error}"[:200])
    return Grade(Verdict.PASS if right else Verdict.FAIL, shown)


def _parse(expression: str) -> list[Any]:
    """math-verify's readings of an expression: values and texts, empty if it has none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(f"{BOX}{expression}}}", targets, parsing_timeout=None)
