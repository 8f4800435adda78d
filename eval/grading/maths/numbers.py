"""Numbers as answers write them, read exactly from a normal text (`eval.grading.maths.reading`); no sympy.

`plain_number` reads what is a number already: `12345`, `-0.5`, `1.5e3`, `\\frac{3}{4}`, `2\\frac{1}{3}`,
`0.\\overline{36}`, `5 \\text{ million}`, and a single power, root, factorial or binomial coefficient. A sum,
product or division that is left to do (`12+70`) is none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction

MAX_POWER_OF_TEN = 10_000
"""Largest exponent of a number in scientific notation that is read."""

MAX_NUMBER_CHARS = 2_000
"""Longer texts are no number; Python itself reads 4,300 digits."""

_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)"
_DECIMAL = re.compile(rf"({_UNSIGNED})")
_SCIENTIFIC = re.compile(
    rf"({_UNSIGNED})\s*(?:[eE]\s*([+-]?\d+)|(?:\\times|\\cdot|\*)\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*([+-]?\d+)\s*\}}|([+-]?\d+)))"
)
_REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\))|(\d*)\.(\d*?)(\d+?)\8{2,}\s*\\ldots"
)
"""A bar or dot over the part that repeats, brackets around it, or the part at least three times and dots."""
_FRACTION = re.compile(r"\\frac\s*\{\s*([+-]?\d+)\s*\}\s*\{\s*([+-]?\d+)\s*\}|([+-]?\d+)\s*/\s*(\d+)")
_MIXED = re.compile(r"(\d+)\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}|(\d+)\s+(\d+)\s*/\s*(\d+)")
_FACTORIAL = re.compile(r"(\d{1,3})\s*!")
_BINOMIAL = re.compile(r"\\binom\s*\{\s*(\d{1,4})\s*\}\s*\{\s*(\d{1,4})\s*\}")
_ROOT = re.compile(r"\\sqrt\s*\{\s*(\d{1,40})\s*\}")
_POWER = re.compile(r"(\d{1,20})\s*(?:\^|\*\*)\s*(?:\{\s*(-?\d{1,4})\s*\}|(-?\d{1,4}))")

MULTIPLIERS = re.compile(
    r"\b(?:hundreds?|thousands?|[mbtr]illions?|lakhs?|crores?|dozens?|gross|scores?|tens|half|halves|thirds?"
    r"|quarters?|\w+ths?|squared|cubed|doubled|tripled|factorial|times|plus|minus|over|by|per cent|less|more"
    r"|than|to|through|between|from|at|about|around|approximately|nearly|almost|choose|mod|modulo|base|root"
    r"|sqrt|sin|cos|tan|log|ln|exp|pi|or|and|not|no|non|is|are|was|wrong|false|fails?|except|but|if|of"
    r"|point|\w+illions?|googol\w*|myriads?|percent\w*|fewer|never|nothing|none|neither|nor|either|maybe"
    r"|perhaps|possibly|unless|without|alas|besides|instead|rather|otherwise|unlike|unlikely|although|though"
    r"|however|while|incorrect\w*|wrongly|bogus|fake|inverse|negative|opposite|reciprocal|conjugate"
    r"|complement|remainder|impossible|undefined|guess\w*|alternative\w*)\b"
)
"""Words that change the number before them, or may."""

_UNITS = {
    "cm": ("centimeter", "centimetre", "centimeters", "centimetres"), "mm": ("millimeter", "millimeters"),
    "km": ("kilometer", "kilometre", "kilometers", "kilometres"), "m": ("meter", "metre", "meters", "metres"),
    "ft": ("foot", "feet"), "in": ("inch", "inches"), "mi": ("mile", "miles"), "yd": ("yard", "yards"),
    "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"), "lb": ("pound", "lbs"),
    "s": ("second", "seconds", "sec"), "min": ("minute", "minutes"), "h": ("hour", "hours", "hr", "hrs"),
    "l": ("liter", "litre", "liters", "litres"), "ml": ("milliliter", "milliliters"),
    "mph": ("miles per hour",), "km/h": ("kilometers per hour", "kilometres per hour", "kph", "kmh"),
    "m/s": ("meters per second", "metres per second"), "degrees": ("degree", "deg"), 
    "rad": ("radian", "radians"),
    "dollars": ("dollar", "usd"), "cents": ("cent",), "euros": ("euro", "eur"), "pounds": ("gbp",),
    "yen": ("jpy",),
    "am": ("a.m",), "pm": ("p.m",), "celsius": ("degrees celsius",), "fahrenheit": ("degrees fahrenheit",),
}  # fmt: skip
_CURRENCIES = {"$": "dollars", "\\$": "dollars", "€": "euros", "£": "pounds", "¥": "yen"}
_MONEY = re.compile(r"\s*([+-]?)\s*(\\?\$|[€£¥])\s*(?=[\d.])")
_MONEY_BEHIND = re.compile(r"(?<=\d)\s*(\\\$|[€£¥])\s*$")
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UP_TO_20 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_SPELT = {word: value for value, word in enumerate(_UP_TO_20.split())}
_NO_UNIT = re.compile(rf"\b(?:\w+(?:ed|ly|wise|teen|ty)|twen\w+|{'|'.join(_SPELT)}|only)\b")
"""Words that are no unit: what was done to the number (`halved`), how (`wrongly`), and another number."""
_UNIT_OF = {alias: unit for unit, aliases in _UNITS.items() for alias in (unit, *aliases)}


@dataclass(frozen=True)
class Number:
    """A number as an answer writes it."""

    value: Fraction
    is_percent: bool = False
    unit: str = ""
    """In its shortest writing, empty where none is written."""
    is_division: bool = False
    """Written as a fraction although it is whole: a division that was left to do."""

    def equals(self, expected: Number) -> bool:
        """Whether this answer is the expected number.

        Exactly; `28%` is 28 and also 0.28. Units count only where both name one.
        """
        if self.unit and expected.unit and self.unit != expected.unit:
            return False
        if self.is_division and expected.value.denominator == 1 and not expected.is_division:
            return False
        values = {self.value, self.value / 100} if self.is_percent else {self.value}
        wanted = {expected.value, expected.value / 100} if expected.is_percent else {expected.value}
        if self.is_percent and expected.is_percent:
            return self.value == expected.value
        return not values.isdisjoint(wanted)


def plain_number(text: str) -> Number | None:
    """The number that a normal text is; None for an expression, and for what is no number."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if (money := _MONEY.match(text)) is not None:
        text = f"{money.group(1)}{text[money.end() :]} \\text{{{_CURRENCIES[money.group(2)]}}}"
    elif (money := _MONEY_BEHIND.search(text)) is not None:
        text = f"{text[: money.start()]} \\text{{{_CURRENCIES[money.group(1)]}}}"
    words = re.sub(r"^\\text\s*\{([a-zA-Z ]+)\}$", r"\1", text).strip().lower()
    if words in _SPELT:
        return Number(Fraction(_SPELT[words]))
    text, is_percent = _percent(text)
    text, unit, factor = _unit(text)
    if unit is None:
        return None
    sign, text = _sign(_unwrapped(text))
    value = _value(text)
    if value is None:
        return None
    is_division = value.denominator == 1 and _FRACTION.fullmatch(text) is not None
    return Number(sign * value * factor, is_percent, unit, is_division)


def _percent(text: str) -> tuple[str, bool]:
    short = re.sub(r"\s*\\%$", "", text)
    return short.strip(), short != text


def _unit(text: str) -> tuple[str, str | None, int]:
    """The text without the words behind its number, their unit, and the power of ten among them.

    The unit is None where the words may change the number. Typeset words of three letters and more count as
    a unit, and all units that are known.
    """
    text = re.sub(r"(?<=\d)\s*(?:\^\s*)?\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}*$", "", text)
    typeset = re.search(r"(?<=[\w})!])\s*((?:\\text\{[^{}]*\}(?:\^\{?[23]\}?)?\s*)+)$", text)
    plain = re.search(r"(?<=[\d})])\s+([a-zA-Z][a-zA-Z/. ]*(?:\^\{?[23]\}?)?)$", text)
    found = typeset or plain
    if found is None:
        return text, "", 1
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1", found.group(1)).strip().strip(".").lower()
    first, *others = words.split() or [""]
    factor = _SCALES.get(first.removesuffix("s"), 1)
    words = " ".join(others if factor > 1 else [first, *others])
    words = re.sub(r"^(?:square|sq)\b\.? *(.+)$", r"\1^2", words)
    words = re.sub(r"^(?:cubic|cu)\b\.? *(.+)$", r"\1^3", words)
    power = re.search(r"\^\{?([23])\}?$", words)
    bare = words[: power.start()].strip() if power else words
    unit = "" if factor > 1 and not words else _UNIT_OF.get(bare)
    if unit is None:
        is_word = typeset is not None and re.fullmatch(r"[a-z' ]+", bare) and min(map(len, bare.split())) >= 3
        changes = MULTIPLIERS.search(bare) or _NO_UNIT.search(bare)
        if not is_word or (power and "^" in found.group(1)) or changes:
            return text, None, 1
        unit = bare
    return text[: found.start()].strip(), unit + (f"^{power.group(1)}" if power else ""), factor


def without_unit(text: str) -> tuple[str, str]:
    """An expression and its unit, empty where none is written."""
    short, unit, factor = _unit(text) if "\\text" in text else (text, "", 1)
    return (short, unit) if unit and factor == 1 else (text, "")


def _unwrapped(text: str) -> str:
    """Without brackets around the whole."""
    while (inner := re.fullmatch(r"\((.*)\)|\{(.*)\}", text, re.DOTALL)) is not None:
        content = inner.group(1) if inner.group(1) is not None else inner.group(2)
        if re.search(r"[(){}]", content) and not content.startswith("\\frac"):
            break
        text = content.strip()
    return text


def _sign(text: str) -> tuple[int, str]:
    if text[:1] in ("+", "-"):
        return (-1 if text[0] == "-" else 1), _unwrapped(text[1:].strip())
    return 1, text


def _value(text: str) -> Fraction | None:
    if match := _DECIMAL.fullmatch(text):
        return Fraction(match.group())
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match.group(2) or match.group(3) or match.group(4))
        within = abs(exponent) <= MAX_POWER_OF_TEN
        return Fraction(match.group(1)) * Fraction(10) ** exponent if within else None
    if match := _REPEATING.fullmatch(text):
        return _repeating(*(part for part in match.groups() if part is not None))
    if match := _FRACTION.fullmatch(text):
        numerator, denominator = (int(part) for part in match.groups() if part is not None)
        return Fraction(numerator, denominator) if denominator else None
    if match := _MIXED.fullmatch(text):
        whole, numerator, denominator = (int(part) for part in match.groups() if part is not None)
        return whole + Fraction(numerator, denominator) if 0 < numerator < denominator else None
    if match := _POWER.fullmatch(text):
        base, exponent = int(match.group(1)), int(match.group(2) or match.group(3))
        return Fraction(base) ** exponent if base or exponent > 0 else None
    return _whole(text)


def _whole(text: str) -> Fraction | None:
    """A factorial, a binomial coefficient, the root of a square."""
    if match := _FACTORIAL.fullmatch(text):
        return Fraction(math.factorial(int(match.group(1))))
    if match := _BINOMIAL.fullmatch(text):
        return Fraction(math.comb(int(match.group(1)), int(match.group(2))))
    if (match := _ROOT.fullmatch(text)) and (root := math.isqrt(int(match.group(1)))) ** 2 == int(
        match.group(1)
    ):
        return Fraction(root)
    return None


def _repeating(whole: str, first: str, repeated: str) -> Fraction:
    """`0.1\\overline{36}`: 0.1 and 36/990."""
    shift = Fraction(1, 10 ** len(first))
    return Fraction(f"{whole or 0}.{first or 0}") + shift * Fraction(int(repeated), 10 ** len(repeated) - 1)


_ELSEWHERE: tuple[tuple[str, str], ...] = (
    (r"\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?:\.\d{3})+(?=,\d)", "."),
    (r"\d{1,3}(?:'\d{3})+", "'"),
    (r"\d{1,2}(?:,\d{2})+,\d{3}", ","),
)
"""Groups of digits as other countries separate them, with the separator."""


def number_elsewhere(text: str) -> Number | None:
    """The number that an answer is by the separators of other countries: `1.234.567`, `12,34,567`, `0,5`.

    Only for an answer where a number is expected: what is expected is no list by these rules.
    """
    sign, text = _sign(text.strip())
    for group, separator in _ELSEWHERE:
        if (found := re.match(group, text)) is not None:
            text = found.group().replace(separator, "") + text[found.end() :]
    text = re.sub(r"^(\d+),(?=\d+(?:\D|$))", r"\1.", text)
    number = plain_number(text)
    return None if number is None else replace(number, value=sign * number.value)
