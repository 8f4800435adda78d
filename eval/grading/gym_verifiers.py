"""Keeps reasoning-gym's verifiers from running an answer as Python.

Some of them hand the answer to `eval`, or to SymPy's `parse_expr`, which is an `eval` too. An answer that ran
could write its own verdict, in whatever process it ran. So within this process the package's `eval` reads
literals alone, and `parse_expr` only what the grammar below allows: no strings, no attributes, no subscripts,
no keywords, no name that stands for anything but an elementary function or a symbol. Whatever else an answer
holds is no answer there, as it would be if it did not parse.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import sys
from typing import Any, NoReturn

EVALUATES_ITS_OWN_PROBLEM = {"reasoning_gym.arithmetic.bitwise_arithmetic"}
"""Modules that keep `eval`: what they evaluate is the problem, and the answer is read by `int`."""
ARITHMETIC_ONLY = {"reasoning_gym.games.puzzle24", "reasoning_gym.games.countdown"}
"""Modules whose answers are arithmetic with the given numbers; a name or a comment could bring in others."""
ELEMENTARY = {
    "sqrt", "cbrt", "exp", "log", "ln", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan",
    "acot", "asec", "acsc", "sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh", "Abs", "erf",
    "pi", "E", "I",
}  # fmt: skip
LONGEST = 10_000
MOST_DIGITS = 300
"""Of a number, and of its value: where none of the package's problems goes, and every float is finite."""

_ARITHMETIC = re.compile(r"(?:[0-9]+|[-+*/() ])*")
_TOKEN = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9]*)|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|[-+*/^(), ]")

_NUMBERS = re.compile(
    r"(?:nan|inf(?:inity)?|\d[\d._]*(?:e[-+]?[\d_]+)?|[-+*/(),;\[\]\s.ij])*+", re.IGNORECASE
)
_NUMBER = re.compile(r"(\d[\d.]*)(?:e([-+]?\d+))?", re.IGNORECASE)


def guard() -> None:
    """Guards SymPy, and then the package, which it imports. Raises ImportError where that is missing."""
    import sympy
    from sympy.parsing import sympy_parser

    given = sympy_parser.parse_expr

    def parse_expr(text: str, *arguments: Any, **options: Any) -> Any:
        refuse_unless_expression(text)
        return given(text, *arguments, **options)

    def parse_arithmetic(text: str, *arguments: Any, **options: Any) -> Any:
        refuse_unless_arithmetic(text)
        return given(text, *arguments, **options)

    for module in (sympy, sympy.parsing, sympy_parser):  # `sympify` looks it up in the last one
        vars(module)["parse_expr"] = parse_expr
    import reasoning_gym  # noqa: F401  # pyright: ignore[reportMissingImports]  (an extra)

    for name in ARITHMETIC_ONLY & sys.modules.keys():
        vars(sys.modules[name])["parse_expr"] = parse_arithmetic
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym" and name not in EVALUATES_ITS_OWN_PROBLEM:
            for function, harmless in (("eval", literal), ("exec", _refuse), ("compile", _refuse)):
                vars(module).setdefault(function, harmless)  # a function of its own of that name stays


def is_infinite(text: str) -> bool:
    """Whether a text of numbers alone has one that is none, infinite, or longer than any answer.

    Comparisons with NaN are false, so that some verifiers take it for right; exact fractions of an answer
    such as `1e999999999` take hours.
    """
    if _NUMBERS.fullmatch(text) is None:
        return False
    words = _NUMBER.findall(text.replace("_", ""))
    return any(len(digits) + abs(_exponent(exponent)) > MOST_DIGITS for digits, exponent in words) or (
        re.search("nan|inf", text, re.IGNORECASE) is not None
    )


def _exponent(text: str) -> int:
    return int(text or "0") if len(text) <= 2 * MOST_DIGITS else LONGEST


def literal(text: str, *_scopes: Any) -> Any:
    """The value of a Python literal. Raises ValueError or SyntaxError for anything else, and runs nothing."""
    return ast.literal_eval(text)


def refuse_unless_expression(text: str) -> None:
    """Raises ValueError unless the text is numbers, symbols, elementary functions and arithmetic."""
    _refuse_long(text)
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise ValueError(f"no expression: {text[place : place + 20]!r}")
        if (name := token["name"]) is not None and not _is_harmless(name):
            raise ValueError(f"no name of an expression: {name!r}")
        place = token.end()


def refuse_unless_arithmetic(text: str) -> None:
    """Raises ValueError unless the text is whole numbers and `+ - * / ( )`."""
    _refuse_long(text)
    if _ARITHMETIC.fullmatch(text) is None or "**" in text or "//" in text:
        raise ValueError(f"no arithmetic: {text[:40]!r}")


def _refuse_long(text: Any) -> None:
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError("no text that could be an answer")


def _is_harmless(name: str) -> bool:
    """Whether it is an elementary function, or stands for nothing, so that SymPy makes a symbol of it."""
    import sympy

    is_known = hasattr(sympy, name) or hasattr(builtins, name) or keyword.iskeyword(name)
    return name in ELEMENTARY or not is_known


def _refuse(*_arguments: Any, **_options: Any) -> NoReturn:
    raise ValueError("a verifier may not run Python here")
