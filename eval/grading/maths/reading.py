# ruff: noqa: RUF001  (look-alike characters are what is rewritten here)
"""One reading of a mathematical answer, before anything compares it: pure text, no sympy.

`normal` writes equal notations alike: spaces and separators, degree and percent signs, unicode, full stops,
the sizes of brackets, braces that may be left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# ---------------------------------------------------------------------------------------- characters

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("·⋅∙•", "\\cdot "),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u205f", " "),
    **dict.fromkeys("\u00ad\u200b\u2060\ufeff", ""),
    "\u066b": ".", "\u066c": "{,}", "ℂ": "\\mathbb{C}", "ℎ": "h",
    **dict.fromkeys("°º˚", "^\\circ "),
    **dict.fromkeys("%％﹪", "\\%"),
    "×": "\\times ", "÷": "/", "∕": "/", "⁄": "/", "π": "\\pi ", "∞": "\\infty ", "…": "\\ldots ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ",
    "±": "\\pm ", "≡": "\\equiv ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ",
    "γ": "\\gamma ", "δ": "\\delta ", "λ": "\\lambda ", "μ": "\\mu ", "φ": "\\phi ", "ω": "\\omega ",
    "≈": "\\approx ", "∶": ":", "∣": "|", "∨": "\\lor ", "∧": "\\land ", "∖": "\\setminus ", "∛": "\\sqrt[3]",
    "∗": "*", "⟨": "\\langle ", "⟩": "\\rangle ", "σ": "\\sigma ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "’": "'", "′": "'",
}  # fmt: skip


def _characters(text: str) -> str:
    """Unicode as LaTeX; a percent sign that LaTeX would take for a comment is escaped."""
    text = re.sub("[\U0001d400-\U0001d7ff]", lambda m: unicodedata.normalize("NFKC", m.group()), text)
    text = re.sub(r"\\%", "%", text)
    text = re.sub(r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt{\1}", text).replace("√", "\\sqrt ")
    text = re.sub(f"[{''.join(_SUPERSCRIPTS)}]+", lambda m: "^{%s}" % _each(m.group(), _SUPERSCRIPTS), text)  # noqa: UP031
    text = re.sub(f"[{''.join(_SUBSCRIPTS)}]+", lambda m: "_{%s}" % _each(m.group(), _SUBSCRIPTS), text)  # noqa: UP031
    return "".join(map(_latex, text))


def _each(characters: str, table: dict[str, str]) -> str:
    return "".join(table[c] for c in characters)


def _latex(character: str) -> str:
    """½ as a typeset fraction, full-width letters and digits as plain ones."""
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    plain = unicodedata.normalize("NFKC", character)
    if "⁄" in plain:
        numerator, _, denominator = plain.partition("⁄")
        return f"\\frac{{{numerator}}}{{{denominator}}}"
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.decimal(character))
    return plain if unicodedata.east_asian_width(character) in "FH" else character


# -------------------------------------------------------------------------------------------- layout


_DEGREE = r"(?:\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z]))"


def _over(match: re.Match[str]) -> str:
    above, below = [part for part in match.groups() if part is not None]
    return f"\\frac{{{above.strip()}}}{{{below.strip()}}}"


def _half_of_day(match: re.Match[str]) -> str:
    return f"\\text{{ {match.group(1).lower()}m}}"


def _temperature(match: re.Match[str]) -> str:
    return "\\text{ celsius}" if match.group(1) == "C" else "\\text{ fahrenheit}"


def _without_marks(match: re.Match[str]) -> str:
    return match.group().replace("{,}", "")


def _named_constant(match: re.Match[str]) -> str:
    return "\\pi " if match.group(1) == "pi" else "\\infty "


_FUNCTIONS = r"arcsin|arccos|arctan|sin|cos|tan|cot|csc|ln|log|exp"
"""Not `sec`, which is a unit too."""

_LEAD_IN = r"(?i:(?:the\s+)?(?:final\s+)?answer(?:\s+is\s*:?|\s*:))\s*"

_REWRITES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^\s*(?:\$\$?|\\\(|\\\[)|(?:(?<!\\)\$\$?|\\\)|\\\])\s*[.,;]?\s*$", ""),
    (r"^\s*\*\*([^*]+)\*\*\s*$", r"\1"),
    (r"(?<!\\)(?:\\\\)+\s*$", ""),
    (r"^\s*\\text\s*\{\s*\$([^$]*)(?<!\\)\$\s*\}\s*$", r"\1"),
    (r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge)(?![a-zA-Z])", ""),
    (r"(?<![\d.,])(?<!\{,\})([1-9]\d{0,2}(?:\{,\}\d{3})+)(?!\d|\{,\})", _without_marks),
    (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])\.?", ""),
    (r"\\(?:!|mkern-?[\d.]+mu)", ""),
    (r"(?<!\\)\\(?:[,;:> ~]|quad|qquad|thinspace|medspace|thickspace|enspace|hspace\{[^{}]*\})|~", " "),
    (r"\\(?:d|t|c|nice|s|x)frac(?![a-zA-Z])", r"\\frac"),
    (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}|^([^{}]*)\\over(?![a-zA-Z])([^{}]*)$", _over),
    (r"\\(?:textcolor|color)\s*\{#?[a-zA-Z\d]+\}|\\(?:bf|rm|it|underline|boldsymbol|bm)(?![a-zA-Z])", ""),
    (
        rf"\\(?:mathrm|text|textrm|operatorname)\s*\{{\s*({_FUNCTIONS})\s*\}}(?:\\[,! ])?\s*(?=[\w({{\\|^])",
        r"\\\1 ",
    ),
    (r"\\(?:mathrm|text|operatorname|mathit|mathbf)\s*\{\s*([ei])\s*\}", r" \1"),
    (r"\\(?:exponentialE|mathrm\s+e)(?![a-zA-Z])", "e"),
    (r"\\text\s*\{\s*(\\?\$|[€£¥])\s*\}", r"\1"),
    (r"\\(?:pounds|textsterling)(?![a-zA-Z])\s*", "£"),
    (r"\\(?:euro|texteuro)(?![a-zA-Z])\s*", "€"),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\ast(?![a-zA-Z])", "*"),
    (r"\*\*", "^"),
    (r"\\colon(?![a-zA-Z])|\{:\}", ":"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\langle(?![a-zA-Z])", "("),
    (r"\\rangle(?![a-zA-Z])", ")"),
    (r"\\lbrack(?![a-zA-Z])", "["),
    (r"\\rbrack(?![a-zA-Z])", "]"),
    (r"\\vee(?![a-zA-Z])", r"\\lor "),
    (r"\\wedge(?![a-zA-Z])", r"\\land "),
    (r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\+\s*(?=\\infty)(?<![\w})]\+)", ""),
    (r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|cot|sec|csc|ln|log|exp|arcsin|arccos|arctan)\s*(?=[({])", r"\\\1"),
    (
        rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?:\s*(?=[\d\\_^|])|\s+(?=[a-z](?![a-zA-Z]))|(?=[xyz](?![a-zA-Z])))",
        r"\\\1 ",
    ),
    (r"\\log\s*_\s*(?:e(?![a-zA-Z])|\{\s*e\s*\})", r"\\ln "),
    (r"(?<![\\a-zA-Z])(?:\\text\s*\{\s*)?(pi|infinity|infty)(?![a-zA-Z])(?:\s*\})?", _named_constant),
    (r"\^\s*\(([^()]*)\)", r"^{\1}"),
    (r"\\(?:d|t)binom(?![a-zA-Z])", r"\\binom"),
    (r"\{\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*\}", r"\\binom{\1}{\2}"),
    (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
    (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"),
    (r"\\neq(?![a-zA-Z])", r"\\ne"),
    (r"\\(?:dots|cdots|dotsc|dotsb|dotso)(?![a-zA-Z])|\.\.\.", r"\\ldots "),
    (r"\\(?:text(?:rm|bf|it|sf|tt)|math(?:rm|bf|it|sf|tt)|operatorname|mbox)\s*\{", r"\\text{"),
    (rf"^\s*\\text\s*\{{\s*{_LEAD_IN}\}}\s*(?=\S)", ""),
    (rf"^\s*\\text\s*\{{\s*{_LEAD_IN}([-+\d.,/ ]+)\}}\s*$", r"\1"),
    (r"^\s*=\s*(?=[^\s=])", ""),
    (r"(?<=\d)\s*(?:\\text\s*\{\s*)?([aApP])\.?\s?[mM]\b\.?(?:\s*\})?$", _half_of_day),
    (r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=\d+$)", ":"),
    (r"\\text\s*\{\s*mod\s*\}", r"\\pmod "),
    (rf"{_DEGREE}\s*(?:\\text\{{\s*)?([CF])(?![a-zA-Z])\s*\}}?$", _temperature),
    (_DEGREE, ""),
    (r"\\?\bpercent\b", r"\\%"),
    (r"\{,\}", ","),
    (r"\\mid(?![a-zA-Z])|\\[lr]?vert(?![a-zA-Z])", "|"),
    (r"\\b?mod(?![a-zA-Z])|\\pmod(?![a-zA-Z])", r"\\pmod"),
    (r"\s+", " "),
)  # fmt: skip

_GROUP = r"(?<![\d.,])(\d{1,3}(?:(?:, ?| )\d{3})+)(?![\d]|,\d)"
"""Digits in groups of three."""

_BRACED = re.compile(r"\\(frac|sqrt|binom)(?![a-zA-Z])\s*(?:\[[^\[\]]*\]\s*)?")


def normal(text: str) -> str:
    """The text with equal notations written alike."""
    text = _without_braces(_characters(text))
    if _OF_ANGLES.search(text):
        text = _DEGREES.sub(_radians, text)
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    text = _listed(text)
    words = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip(" .").lower()
    if words in _IN_WORDS:
        return _IN_WORDS[words]
    if (whole := re.fullmatch(r"\s*\\text\{([-+\d.,/ ]+)\}\s*", text)) is not None:
        text = whole.group(1)
    text = _join_groups(_with_braces(text)).strip()
    text = re.sub(r"(?<=[\w)}\]!%])\s*[.,;:]+$", "", text)
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", text).strip()


_DOUBLE = re.compile(r"(?<!\\)\{\s*\{([^{}]*)(?<!\\)\}\s*\}")
_AROUND_BASE = re.compile(
    r"(?:^|(?<=[-+*/(=,])|(?<=\\times)|(?<=\\cdot))(\s*)\{(\d+(?:\.\d+)?|[a-zA-Z])\}(?=\s*\^)"
)
"""Braces around what is raised to a power; behind any other command they may hold its argument."""


def _without_braces(text: str) -> str:
    """Without braces that only group: `\\frac{{5}}{{8}}`, `{-}3`, `3{.}5`, `{2}^{10}`."""
    for _ in range(3):
        text = _DOUBLE.sub(r"{\1}", text)
    text = re.sub(r"(?<=\d)\{\.\}(?=\d)", ".", text)
    text = re.sub(r"(?<![\\a-zA-Z^_}\]\s])\{([-+])\}", r"\1", text)
    return _AROUND_BASE.sub(r"\1\2", text)


_IN_WORDS = {
    "no solution": "\\emptyset", "no solutions": "\\emptyset", "there is no solution": "\\emptyset",
    "there are no solutions": "\\emptyset", "empty set": "\\emptyset", "the empty set": "\\emptyset",
    "all real numbers": "\\mathbb{R}", "all reals": "\\mathbb{R}",
}  # fmt: skip

_OF_ANGLES = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(rf"(\d+(?:\.\d+)?|[a-z]|\\[a-z]+)\s*{_DEGREE}")


def _radians(match: re.Match[str]) -> str:
    """Of the argument of a function, where 1 is not 1 degree."""
    return f"(\\frac{{{match.group(1)}\\pi}}{{180}})"


_OR = re.compile(r"\s*\\text\s*\{\s*,?\s*or\s*\}\s*|(?<=[\w\s)}\]])\s*,?\s\bor\s")
_AND = re.compile(r"\s*\\text\s*\{\s*,?\s*and\s*\}\s*|(?<=[\w\s)}\]])\s*,?\s\band\s")


def _listed(text: str) -> str:
    """`and` and `or` between values as commas; `or` between inequalities as their union."""
    if not re.search(r"\d|\\text\s*\{\s*,?\s*(?:and|or)\s*\}", text):
        return text
    if re.search(r"[<>=]|\\[lgn]e(?![a-zA-Z])", text):
        text = re.sub(r"\\lor(?![a-zA-Z])", r"\\text{ or }", text)
        text = re.sub(r"\\land(?![a-zA-Z])", r"\\text{ and }", text)
    is_of_inequalities = re.search(r"[<>]|\\[lg]e(?![a-zA-Z])", text) is not None
    return _AND.sub(" , ", _OR.sub(r" \\cup " if is_of_inequalities else " , ", text))


def _join_groups(text: str) -> str:
    """`12 345` and `12,345` as 12345. Commas that separate the parts of a point or a set stay."""
    closed = r"[(\[{]\s*-?\d+(?:\s*,\s*-?\d+)+\s*\\?[)\]}]"
    if re.search(closed, text) or re.search(r"\d, \d", text):
        return re.sub(_GROUP.replace("(?:, ?| )", " "), lambda m: m.group().replace(" ", ""), text)
    return re.sub(_GROUP, lambda m: re.sub("[, ]", "", m.group()), text)


def _with_braces(text: str) -> str:
    """`\\frac12`, `\\frac1{2}`, `\\sqrt2` and `\\sqrt(2)` with the braces that LaTeX lets one leave out."""
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    pieces, place = [], 0
    for match in _BRACED.finditer(text):
        if match.start() < place:
            continue
        pieces.append(text[place : match.start()] + match.group().strip())
        place = match.end()
        for _ in range(1 if match.group(1) == "sqrt" else 2):
            argument = re.match(r"\s*(\d|[a-zA-Z]|\\[a-zA-Z]+)", text[place:])
            if argument is None and (argument := re.match(r"\s*\{([^{}]*)\}\s*(?=\d)", text[place:])) is None:
                break
            pieces.append(f"{{{argument.group(1)}}}")
            place += argument.end()
    return "".join([*pieces, text[place:]])
