"""Judges of single answers by what is written: exact text, and the last number.

Mathematics is judged by `eval.grading.maths.grading`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from eval.grading.maths.numbers import Number, plain_number
from eval.grading.maths.reading import normal
from eval.records import Completion, Grade, Verdict


def grade_exact(completion: Completion, answer: Any) -> Grade:
    """Judge an answer that must be the expected text, but for white space around it."""
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    given = completion.text.strip()
    verdict = Verdict.PASS if given == as_text(answer).strip() else Verdict.FAIL
    return Grade(verdict, f"answered {given[:60]}")


_SEPARATOR = r"(?:,|\{,\}|\\,|\\!,|,\\!)"
_NUMERAL = (
    rf"(?:(?<![0-9])[-+\u2212])?(?:[0-9]+(?:{_SEPARATOR}[0-9]{{3}})*(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+(?![0-9A-Za-z]))?"
)
_NUMBER = re.compile(
    r"[\^_]\{?[-+]?[0-9]+\}?|[0-9]+/[0-9]+/(?=[0-9])"
    rf"|(-?\\[dt]?frac\s*(?:\{{\s*{_NUMERAL}\s*\}}|[0-9])\s*(?:\{{\s*{_NUMERAL}\s*\}}|[0-9])"
    rf"|{_NUMERAL}(?:/[0-9]+(?!/[0-9])|(?:\^|\*\*)(?:\{{-?[0-9]+\}}|-?[0-9]+))?)"
)
"""A numeral, a fraction or a power of numerals; before it what is none, as the 2 of `cm^2`."""


def grade_number(completion: Completion, answer: Any) -> Grade:
    """Judge the last number of an answer ("12 + 70 = 82."), for models that use no box.

    answer: the expected number. UNSCORED: it is no number.
    """
    expected = _as_number(as_text(answer).strip())
    if expected is None:
        return Grade(Verdict.UNSCORED, f"the expected answer {as_text(answer)[:60]!r} is no number")
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    found = [match.group(1) for match in _NUMBER.finditer(completion.text) if match.group(1)]
    if not found:
        return Grade(Verdict.FAIL, "no number")
    given = _as_number(found[-1])
    verdict = Verdict.PASS if given is not None and given.equals(expected) else Verdict.FAIL
    return Grade(verdict, f"answered {found[-1][:60]}")


def is_number(text: str) -> bool:
    """Whether `grade_number` can compare with this expected answer."""
    return _as_number(text.strip()) is not None


def _as_number(text: str) -> Number | None:
    match = _NUMBER.fullmatch(text)
    return plain_number(normal(text)) if match is not None and match.group(1) else None


def as_text(answer: object) -> str:
    """An expected answer as text: 5.0 is written 5, and 0.00001 not 1e-05."""
    if not isinstance(answer, float) or answer != answer or answer in (float("inf"), float("-inf")):
        return str(answer)
    return str(int(answer)) if answer.is_integer() else format(Decimal(repr(answer)), "f")
