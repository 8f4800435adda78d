"""Values of single expressions by sympy, and what is left by math-verify. Slow, perhaps endless: runs in a
process that can be killed (`eval.grading.maths.worker`).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from eval.grading.maths.limits import unevaluated_operator
from eval.grading.maths.numbers import plain_number, without_unit

PRECISION = 100
"""Digits in which math-verify compares numbers that it cannot compare symbolically."""

CLOSE = 60
"""Closed values that agree in so many digits, and in everything that sympy can tell, are equal."""

PLACES = (
    ("3/7", "-5/11", "13/9", "7/5", "-8/3"),
    ("5/3", "9/4", "2/13", "11/6", "17/7"),
    ("7/2", "12/5", "9/8", "5/4", "8/3"),
    ("-4/5", "8/7", "5/6", "-3/2", "7/9"),
    ("-17/4", "-23/5", "-35/6", "-41/7", "-9/2"),
    ("-38/3", "-57/5", "-43/4", "-65/7", "-71/6"),
)
"""Where expressions with variables are evaluated: if they differ there, they differ. The last are far below
0, where `|x+7|` is not `x+7`."""
WHOLE_PLACES = (
    (4, 7, 3, 9, 5),
    (6, 3, 8, 4, 10),
    (9, 5, 7, 11, 3),
    (12, 8, 5, 6, 4),
    (5, 13, 9, 8, 7),
    (7, 10, 6, 9, 8),
)
"""Of variables that stand for whole numbers."""

Unsure = Literal["undecided", "expected unparsed"]


def is_answer(expected: str, given: str) -> bool | Unsure:
    """Whether a single value, or a single equation, is the expected one."""
    (expected, unit), (given, other_unit) = without_unit(expected), without_unit(given)
    if unit and other_unit and unit != other_unit:
        return False
    expected, given = exact_text(expected), exact_text(given)
    compared = equal_relations if _RELATION.search(_BOUNDS.sub("", expected)) else equal_expressions
    same = compared(expected, given)
    return by_math_verify(expected, given) if same is None else same


def are_equal(expected: str, given: str) -> bool | None:
    """Whether two expressions have the same value."""
    return equal_expressions(exact_text(expected), exact_text(given))


# ------------------------------------------------------------------------------------------ reading


def exact_text(text: str) -> str:
    """Decimals as fractions, and products with their sign: `(3)(4)` is no mixed number."""
    number = plain_number(text)
    if number is not None and not (number.is_percent or number.unit):
        return f"\\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"
    if "\\%" not in text:
        text = re.sub(r"(?<![\w.])(\d*)\.(\d+)(?![\d.]|\\overline)", _as_fraction, text)
    text = re.sub(r"\\sqrt\s*\[([3579])\]\s*\{-(\d+)\}", r"(-\\sqrt[\1]{\2})", text)  # sympy's is complex
    # but not between a function's index and its argument: `\\log_2(3)`, `\\sin^2(x)`
    text = re.sub(r"(?<=\))\s*(?=\()|(?<![_^]\d)(?<=[\d)])\s*(?=\()|(?<=\))\s*(?=\d)", r"\\cdot ", text)
    return re.sub(r"(?<=\d) +(?=\d)", r" \\text{ } ", text)


def _as_fraction(match: re.Match[str]) -> str:
    whole, decimals = match.groups()
    return f"\\frac{{{int(whole + decimals)}}}{{{10 ** len(decimals)}}}"


_CURRENT = re.compile(r"(\\[a-zA-Z]+)|I")
"""A capital I, which is a letter like others (of a current, of an integral) and for sympy the imaginary unit;
and commands, which may hold one."""

_BOUNDS = re.compile(r"_\{[^{}]*\}")
_OTHER = re.compile(r"\\text|\\%|[=<>,:]|\\(?:[lgn]e|in|ldots|begin|cup|cap|emptyset)(?![a-z])")


def _expression(text: str) -> Any:
    """sympy's expression of a text without words and relations; None for any other."""
    if _OTHER.search(_BOUNDS.sub("", text)) or _has_indexed_terms(text):
        return None
    from sympy import Expr, I

    try:
        value = _read(_CURRENT.sub(lambda found: found[1] or "\\Xi ", text)).doit()
        imaginary = [symbol for symbol in value.free_symbols if symbol.name == "i"]
        if imaginary and "_i" not in text:
            value = value.subs(dict.fromkeys(imaginary, I))
    except Exception:  # of the parser and of sympy: it is compared in another way
        return None
    return value if isinstance(value, Expr) else None


def _has_indexed_terms(text: str) -> bool:
    """Whether terms of a sum or limit have its variable as their index: sympy takes `a_k` for a constant."""
    bound = re.findall(r"\\(?:sum|prod|lim)\s*_\s*\{?\s*([a-zA-Z])", text)
    indices = re.findall(r"(?<!\\sum)(?<!\\prod)(?<!\\lim)_\s*(\{[^{}]*\}|\w)", text)
    return any(variable in index for variable in bound for index in indices)


def _read(text: str) -> Any:
    """sympy's expression; raises whatever the parser raises."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    return latex2sympy(text, is_real=True, conversion_config=ConversionConfig(lowercase_symbols=False))


# ------------------------------------------------------------------------------------- exact values


def equal_expressions(expected: str, given: str) -> bool | None:
    """Whether both have the same value, whatever their variables are; None where sympy cannot tell."""
    one, other = _expression(expected), _expression(given)
    if one is None or other is None:
        return None
    try:
        if one == other:
            return True
        if not one.free_symbols and not other.free_symbols:
            return _equal_values(one, other)
        return _equal_functions(one, other)
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return None


def _equal_values(expected: Any, given: Any) -> bool | None:
    from sympy import Abs, N, Rational, simplify

    if not (expected.is_number and given.is_number):
        return None
    if isinstance(expected, Rational) and isinstance(given, Rational):
        return expected == given
    if not (expected.is_finite and given.is_finite):
        return None if expected.is_finite is None or given.is_finite is None else False
    one, other = N(expected, CLOSE), N(given, CLOSE)
    scale = Abs(one) + Abs(other)
    if Abs(one - other) > scale / 10 ** (CLOSE // 3):  # without the cost of cancelling digits
        return False
    difference = expected - given
    if difference == 0:
        return True
    if Abs(N(difference, CLOSE, maxn=10 * CLOSE)) > scale / 10 ** (CLOSE - 10):
        return False
    return simplify(difference).is_zero is not False


def _equal_functions(expected: Any, given: Any) -> bool | None:
    from sympy import expand, posify, simplify

    difference = expected - given
    if difference == 0 or expand(difference) == 0:
        return True
    agreed = _agreements(expected, given)
    if agreed is None:
        return False
    if simplify(difference) == 0:
        return True
    # roots and logarithms of variables are equal where they are real
    return True if agreed > 1 and simplify(posify(difference)[0]) == 0 else None


def _agreements(expected: Any, given: Any) -> int | None:
    """At how many places two functions are real and equal; None if they differ at one."""
    from sympy import Abs, I, Rational

    symbols = sorted(expected.free_symbols | given.free_symbols, key=str)
    agreed = 0
    for places, whole in zip(PLACES, WHOLE_PLACES, strict=True):
        values = {
            symbol: whole[place % 5] if symbol.name[:1] in "jklmnpqN" else Rational(places[place % 5])
            for place, symbol in enumerate(symbols)
        }
        with_value = [_has_value(expression, values) for expression in (expected, given)]
        if with_value[0] and not with_value[1] and expected.has(Abs):
            return None  # `\ln|x|` has a value where `\ln x` has none, and was written for that
        if not all(with_value):
            continue
        one, other = (expression.subs(values).doit().evalf(30) for expression in (expected, given))
        if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
            continue
        if one.is_real != other.is_real and not (expected.has(I) or given.has(I)):
            continue  # one of them has no value there
        if abs(one - other) > (abs(one) + abs(other)) * 1e-20:
            return None
        agreed += 1
    return agreed


def _has_value(expression: Any, values: dict[Any, Any]) -> bool:
    """Whether all its roots and logarithms are real there: for sympy `\\sqrt{a}\\sqrt{b}` is not `\\sqrt{ab}`
    below 0."""
    from sympy import Pow, log

    inner = [
        part.args[0] for part in expression.atoms(Pow, log) if part.is_Function or not part.exp.is_integer
    ]
    return not any(part.subs(values).evalf(15).is_negative for part in inner)


def equal_relations(expected: str, given: str) -> bool | None:
    """Whether one equation or inequality is the other, times a number."""
    (kind, one, divisor), (other_kind, other, other_divisor) = _relation(expected), _relation(given)
    if one is None or other is None:
        return None
    from sympy import simplify

    try:
        if kind != other_kind or one == 0 or other == 0 or one.free_symbols != other.free_symbols:
            return False
        if kind != "=" and (divisor.free_symbols or other_divisor.free_symbols):
            return None  # their signs decide
        ratio = simplify(one.expand() / other.expand())
        if not ratio.is_number or not ratio.is_finite or ratio == 0:
            return False
        return kind == "=" or bool(ratio * other_divisor / divisor > 0)
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return None


_RELATION = re.compile(r"(?:=|<|>|\\le(?![a-z])|\\ge(?![a-z]))(?![^{}]*\})")


def _relation(text: str) -> tuple[str, Any, Any]:
    """Its sign, and numerator and denominator of the difference of its sides; None where there is none."""
    found = _RELATION.findall(text)
    sides = [_expression(side) for side in _RELATION.split(text)]
    if len(found) != 1 or None in sides:
        return "", None, None
    from sympy import fraction, together

    left, right = sides if found[0] in ("=", "<", "\\le") else sides[::-1]
    kind = {">": "<", "\\ge": "\\le"}.get(found[0], found[0])
    return kind, *fraction(together((left - right).expand()))


# --------------------------------------------------------------------------------------- math-verify


def by_math_verify(expected: str, given: str) -> bool | Unsure:
    """What math-verify says, where it does not answer with other letters than those that are expected."""
    from math_verify import verify

    expected_readings = parse_boxed(expected)
    if not expected_readings:
        return "expected unparsed"
    if _has_indexed_terms(expected) or _has_indexed_terms(given):
        # a sum of unknown terms equals nothing without a sum
        return "undecided" if unevaluated_operator(expected) and unevaluated_operator(given) else False
    given_readings = parse_boxed(given)
    if not given_readings or _letters(expected) != _letters(given) or _one_number_of_many(expected, given):
        return _unless_unevaluated(expected)
    is_right = verify(expected_readings, given_readings, numeric_precision=PRECISION, timeout_seconds=None)
    return True if is_right else _unless_unevaluated(expected)


def parse_boxed(expression: str) -> list[Any]:
    """math-verify's readings of an expression: values and texts, empty if it has none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    # None, which is no limit, works although an int is declared.
    return parse(f"\\boxed{{{expression}}}", targets, parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def _letters(text: str) -> set[str]:
    """Variables, and words in upright letters."""
    return set(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]+", re.sub(r"\\text", "", text)))


def _one_number_of_many(expected: str, given: str) -> bool:
    """Whether a lone number answers an expression that merely holds it: math-verify finds it inside."""
    is_number = re.fullmatch(r"-?(?:\d+|\\frac\{-?\d+\}\{\d+\})", given.strip()) is not None
    return is_number and re.search(r"[,;=]|\\%", expected) is None


def _unless_unevaluated(expected: str) -> bool | Unsure:
    """An expression that sympy cannot evaluate is not told from others by failing to equal them."""
    return "undecided" if unevaluated_operator(expected) else False
