"""What is known to take math-verify and sympy long, told from the text before either sees it."""

from __future__ import annotations

import math
import re

MAX_ANSWER_CHARS = 400
MAX_NESTING = 12
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 1_000
MAX_DIGITS = 100
MAX_EXPANSION = 50
ALL = (MAX_ANSWER_CHARS, MAX_NESTING, MAX_EXPONENT, MAX_FACTORIAL, MAX_DIGITS, MAX_EXPANSION)

_POWER = re.compile(r"(\d+)(?:\^|\*\*)(?:\{(\d+)\}|\((\d+)\)|(\d+))")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*(\{|\(|\\left\(|[-+]?[\d.]+|)")


def reason_to_refuse(expression: str) -> str:
    """Why an expression could take math-verify long; empty if it could not."""
    if len(expression) > MAX_ANSWER_CHARS:
        return f"longer than {MAX_ANSWER_CHARS} characters"
    if _nesting(expression) > MAX_NESTING:
        return f"nested deeper than {MAX_NESTING}"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", expression):
        return f"a number of more than {MAX_DIGITS} digits"
    if operator := unevaluated_operator(expression):
        return f"an unevaluated {operator}"
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


def unevaluated_operator(expression: str) -> str:
    """The first sum, product, integral or limit of an expression, as LaTeX names it; empty if it has none."""
    found = re.search(r"\\(i*int|oint|sum|prod|lim|bigcup|bigcap)(?![a-zA-Z])", expression)
    return found.group() if found else ""


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
