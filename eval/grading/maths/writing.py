"""What two normal texts say without any computation: numbers, words, residues, numbers in a base."""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import Any

from eval.grading.maths.comparing import Judge, compare
from eval.grading.maths.numbers import number_elsewhere, plain_number


def judged_as_written(expected: str, given: str) -> bool | None:
    """Whether a normal text is the expected answer; None where that must be computed."""
    if plain_number(expected) is not None and (number_elsewhere(given) or plain_number(given)) is not None:
        return answers_as_written(expected, given)
    whole = as_written(expected, given)
    return compare(expected, given, AS_WRITTEN) if whole is None else whole


def answers_as_written(expected: str, given: str) -> bool | None:
    """Of single values; where a number is expected, a number must be answered."""
    wanted = plain_number(expected)
    if wanted is None:
        return as_written(expected, given)
    readings = (plain_number(given), number_elsewhere(given))
    return any(number is not None and number.equals(wanted) for number in readings)


def equals_as_written(expected: str, given: str) -> bool | None:
    """Whether single values are equal."""
    wanted, found = plain_number(expected), plain_number(given)
    if wanted is not None and found is not None:
        return wanted.value == found.value
    return True if _compact(expected) == _compact(given) != "" else None


AS_WRITTEN = Judge(answers_as_written, equals_as_written)


MAX_CHARS = 1_000
"""Longer texts are no congruence."""

_CONGRUENCE = re.compile(r"(?:(.+?)\\equiv)?(.+?)\(?\s*\\pmod\s*[{(]?\s*(.+?)\s*[})]?\s*\)?")
_IN_BASE = re.compile(r"(-?[0-9A-Fa-f]+)_\{?\s*(\d+)\s*\}?")


def as_written(expected: str, given: str) -> bool | None:
    """For what is compared by its parts as they are written; None for expressions."""
    if _compact(given) == _compact(expected) != "":
        return True
    if "\\ldots" in given or "\\ldots" in expected:
        return False
    for reading in (_congruence, _in_base):
        found, wanted = reading(given), reading(expected)
        if wanted is not None or found is not None:
            return found == wanted or _is_congruent(found, wanted)
    if _is_same_product(expected, given):
        return True
    found, wanted = _words(given), _words(expected)
    if wanted is not None:
        spelt = _compact(given)
        is_same = wanted == (found or (spelt.lower() if "\\text" in expected else spelt))
        return None if found is None and not is_same and _may_be_product(expected, given) else is_same
    spelt = _compact(expected)
    is_spelt = found is not None and found == spelt.lower() and len(found) > 1
    return True if is_spelt and (len(spelt) <= 3 or _CASED.fullmatch(spelt)) else None


def _is_same_product(expected: str, given: str) -> bool:
    """`abcd` and `dcba`, whose `dc` the parser takes for a differential; no words with the same letters."""
    are_letters = all(re.fullmatch("[A-Za-z]{4,100}", text) for text in (expected, given))
    are_words = _reads_as_words(expected) and _reads_as_words(given)
    return are_letters and not are_words and sorted(expected) == sorted(given)


def _may_be_product(expected: str, given: str) -> bool:
    """Whether letters that read as words may be a product that has the given value: no typeset words."""
    is_typeset = any("\\text" in text or " " in text for text in (expected, given))
    return not is_typeset and set(re.findall("[A-Za-z]", expected)) <= set(given)


def _is_congruent(found: Any, wanted: Any) -> bool:
    """The same residues, where one does not say what has them."""
    are_both = isinstance(found, tuple) and isinstance(wanted, tuple) and len(found) == len(wanted) == 3
    return are_both and found[1:] == wanted[1:] and "" in (found[0], wanted[0])


def _compact(text: str) -> str:
    """Without spaces that separate nothing."""
    return re.sub(r"(?<![a-zA-Z0-9]) | (?![a-zA-Z0-9])", "", re.sub(r"\\text\{([^{}]*)\}", r"\1", text))


def _congruence(text: str) -> tuple[str, Any, str] | None:
    """What is congruent, to which residues, and the modulus."""
    match = _CONGRUENCE.fullmatch(text) if "\\pmod" in text and len(text) < MAX_CHARS else None
    if match is None:
        return None
    side, residue, modulus = (_compact((part or "").strip()) for part in match.groups())
    residues = residue.split(",")
    if all(re.fullmatch(r"-?\d{1,100}", one) for one in residues) and re.fullmatch(
        r"0*[1-9]\d{,100}", modulus
    ):
        return side, sorted(int(one) % int(modulus) for one in residues), str(int(modulus))
    return side, residue, modulus


def _in_base(text: str) -> tuple[str, int] | None:
    match = _IN_BASE.fullmatch(re.sub(r"^\(([^()]*)\)", r"\1", text.replace(" ", "")))
    return (match.group(1).lower().lstrip("0"), int(match.group(2))) if match else None


_MONTH = re.compile(
    r"\b(?:january|february|march|april|may|june|july|august|september|october|november|december)\b"
)
_ALIASES = {"does not exist": "dne", "infinitely many solutions": "infinitely many"}


def _words(text: str) -> str | None:
    """Words, such as a weekday's name, in small letters; None for letters that may be variables."""
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()
    is_text = "\\text" in text or " " in plain or len(plain) > 3
    if not is_text or not re.fullmatch(
        r"[A-Za-z][A-Za-z' .-]*|(?=.*[A-Za-z]{3})[A-Za-z\d][\w' .,:/&-]*", plain
    ):
        return None
    if "\\text" not in text and " " not in plain and not _reads_as_words(plain):
        return None
    words = re.sub(r"[\s.]+", " ", plain).strip().lower()
    if _MONTH.search(words):
        words = " ".join(sorted(re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|,|\b(?:the|of)\b", " ", words).split()))
    return _ALIASES.get(words, words)


_CASED = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def _reads_as_words(text: str) -> bool:
    """Whether bare letters are words; in a product (`abcd`, `xyz/2`, `abCD`), often in order, case counts."""
    parts = re.findall("[A-Za-z]+", text)
    return all(
        _CASED.fullmatch(part) and re.search("[aeiou]", part.lower()) and part.lower() not in ascii_lowercase
        for part in parts
    )
