"""What an answer is made of: pure text, no sympy.

A normal text (`eval.grading.maths.reading`) is a list, a point, an interval, a union, a chain of equations or
inequalities, a ratio, a table, or a single value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate, product

from eval.grading.maths.numbers import MULTIPLIERS

MAX_NESTING = 30
"""Deeper texts are single values."""

# -------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class Leaf:
    """A single value."""

    text: str


@dataclass(frozen=True)
class Several:
    """A point, a set, an interval, or a list without brackets."""

    opening: str
    closing: str
    items: tuple[str, ...]

    @property
    def is_ordered(self) -> bool:
        """A set, and a list without brackets, have no order."""
        return self.opening not in ("", "\\{")


@dataclass(frozen=True)
class Union:
    """Sets, or inequalities, of which one holds."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Sides of equations or inequalities; of a chain of `>`, in the order of `<`."""

    relations: tuple[str, ...]
    sides: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Ratio:
    """Parts of a ratio or a time."""

    items: tuple[str, ...]
    suffix: str


@dataclass(frozen=True)
class Table:
    """A matrix, or the cases of a function."""

    kind: str
    rows: tuple[tuple[str, ...], ...]
    text: str


Node = Leaf | Several | Union | Chain | Ratio | Table

_BRACKETS = re.compile(r"(\(|\[|\\\{)(.*)(\)|\]|\\\})", re.DOTALL)
_OUTWARD = re.compile(r"([\[\]])([^\[\]]+)([\[\]])")
_RELATION = re.compile(r"\\(?:le|ge|ne|in)(?![a-zA-Z])|[<>=]")
_MIRRORED = {">": "<", "\\ge": "\\le"}
_TABLE = re.compile(r"\\begin\{(\w+)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_VECTORS = ("pmatrix", "bmatrix", "matrix", "array", "Bmatrix", "smallmatrix")
_BUILDER = re.compile(
    r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{R\})?\s*[:|]\s*([^{}|:]*(?:[<>=]|\\[lgn]e(?![a-zA-Z]))[^{}|:]*)\\\}"
)
"""`\\{x : x > 0\\}`, which says its condition."""
_POINT = re.compile(r"^([A-Z])\s*(\([^()]*,[^()]*\))$")
"""`A(2, 5)`."""
_RATIO = re.compile(r"(.*?)\s*(\\text\{ (?:am|pm)\})?", re.DOTALL)
_REALS = Several("(", ")", ("-\\infty", "\\infty"))


def read(text: str) -> Node:
    """The outermost structure of a normal text."""
    text = text.strip()
    if (
        max(accumulate((character in "([{") - (character in ")]}") for character in text), default=0)
        > MAX_NESTING
    ):
        return Leaf(text)
    text = _POINT.sub(r"\1=\2", _ungrouped(text))
    if (condition := _BUILDER.fullmatch(text)) is not None:
        return read(condition.group(1))
    if (table := _TABLE.fullmatch(text)) is not None and "\\begin" not in table.group(2):
        return Table("matrix" if table.group(1) in _VECTORS else table.group(1), _rows(table.group(2)), text)
    if text == "\\mathbb{R}":
        return _REALS
    items = split(text, ",;")
    if len(items) > 1:
        return Several("", "", tuple(part for item in items for part in signs(item)))
    text = _exact_side(text)
    parts = split(text, "\\cup")
    if len(parts) > 1:
        return Union(parts)
    chain = _chain(text)
    if chain is not None:
        return chain
    return _bracketed(text) or _ratio(text) or _signed(text)


def _exact_side(text: str) -> str:
    """`\\sqrt{2} \\approx 1.414` says what it is before it says what it is close to."""
    exact, *close = split(text, "\\approx") or ("",)
    if not close:
        return exact if "\\approx" in text else text
    return f"{exact} = {close[0]}" if is_name(exact) else exact


def _ungrouped(text: str) -> str:
    """Without brackets that only group: around a single value, or around everything."""
    while (whole := re.fullmatch(r"([(\[{])(.*)([)\]}])", text, re.DOTALL)) is not None:
        opening, content, closing = whole.groups()
        is_pair = opening + closing in ("()", "[]", "{}")
        if not is_pair or not _is_closed(content) or (opening != "{" and len(split(content, ",;")) > 1):
            break
        text = content.strip()
    return text


def _bracketed(text: str) -> Several | None:
    outward = _OUTWARD.fullmatch(text)
    if outward is not None and (outward.group(1) == "]" or outward.group(3) == "["):
        opening, content, closing = outward.groups()
        text = f"{'(' if opening == ']' else '['}{content}{')' if closing == '[' else ']'}"
    found = _BRACKETS.fullmatch(text)
    if found is None or not _is_closed(found.group(2)):
        return None
    opening, content, closing = found.groups()
    items = split(content, ",;")
    if opening == "\\{":
        items = tuple(part for item in items for part in signs(item))
    return Several(opening, closing, items) if len(items) > 1 or opening == "\\{" else None


def _signed(text: str) -> Node:
    values = signs(text)
    return Several("", "", values) if len(values) > 1 else Leaf(text)


def signs(text: str) -> tuple[str, ...]:
    """Both values of `1 \\pm 2`, and all of up to two such signs."""
    places = text.split("\\pm")
    if len(places) == 1 or len(places) > 3 or "\\mp" in text or "=" in text or split(text, ",;") != (text,):
        return (text,)
    found = []
    for chosen in product("+-", repeat=len(places) - 1):
        value = places[0]
        for sign, place in zip(chosen, places[1:], strict=True):
            value = f"{value}{sign}{place}"
        found.append(re.sub(r"^\s*\+\s*", "", value).strip())
    return tuple(found)


def _chain(text: str) -> Chain | None:
    found = _outside(text, _RELATION.pattern)
    if not found:
        return None
    ends = [match.start() for match in found] + [len(text)]
    starts = [0] + [match.end() for match in found]
    sides = tuple(text[start:end].strip() for start, end in zip(starts, ends, strict=True))
    relations = tuple(match.group() for match in found)
    if all(relation in _MIRRORED for relation in relations):
        return Chain(tuple(_MIRRORED[relation] for relation in reversed(relations)), sides[::-1], text)
    return Chain(relations, sides, text)


def _ratio(text: str) -> Ratio | None:
    found = _RATIO.fullmatch(text)
    assert found is not None
    items = split(found.group(1), ":")
    return Ratio(items, found.group(2) or "") if len(items) > 1 and "|" not in text else None


def _rows(content: str) -> tuple[tuple[str, ...], ...]:
    content = re.sub(r"\\hline|\\(?:text|mbox)\{\s*,?\s*(?:if|for|when|otherwise)?\s*\}", " ", content)
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", content) if row.strip(" ,;.")]
    return tuple(tuple(cell.strip(" ,;") for cell in row.split("&")) for row in rows)


def _is_closed(content: str) -> bool:
    """Whether no bracket closes that was opened before this text, and none is left open."""
    return _depth(content) == 0


def _depth(content: str) -> int:
    """How many brackets are open at the end; -1 if one closes that was opened before."""
    depth = 0
    for match in re.finditer(r"[([{]|[)\]}]|\\begin|\\end", content):
        depth += 1 if match.group() in ("(", "[", "{", "\\begin") else -1
        if depth < 0:
            return -1
    return depth


def split(text: str, separators: str) -> tuple[str, ...]:
    """The parts between separators (characters, or one command) outside of brackets, empty ones left out."""
    pattern = f"{re.escape(separators)}(?![a-zA-Z])" if separators[0] == "\\" else f"[{separators}]"
    items, start = [], 0
    for match in _outside(text, pattern):
        items.append(text[start : match.start()])
        start = match.end()
    return tuple(item for item in (part.strip() for part in [*items, text[start:]]) if item)


def _outside(text: str, pattern: str) -> list[re.Match[str]]:
    """Where the pattern matches outside of brackets and environments."""
    depth, found = 0, []
    for match in re.finditer(
        rf"(?P<open>[(\[{{]|\\begin)|(?P<close>[)\]}}]|\\end)|(?P<here>{pattern})", text
    ):
        if match["here"] is None:
            depth += 1 if match["open"] else -1
        elif depth == 0:
            found.append(match)
    return found


# ------------------------------------------------------------------------------------------- names

_ATOM = (
    r"(?:\\(?:overline|overrightarrow|vec|hat|bar|widehat|mathbb|mathcal|text)\s*\{[^{}]*\}"
    r"|\\(?!infty|pi(?![a-zA-Z])|frac|sqrt|binom|pm|mp|cdot|times|sum|prod|int|lim|lfloor|lceil)[a-zA-Z]+(?![a-zA-Z])|[a-zA-Z]+(?![a-zA-Z]))"
    r"'*(?:_(?:\w|\{[^{}]*\}))?(?:\^\{-1\})?'*(?:\([^()=]*\))?"
)
_NAME = re.compile(rf"{_ATOM}(?:\s*(?:[-+:]|\\(?:cdot|times)(?![a-zA-Z]))?\s*{_ATOM})*|\|[A-Z]+\|")


def is_name(text: str) -> bool:
    """Whether it names what is asked for (`x`, `f(2)`, `m+n`, `\\angle ABC`), and is no value itself."""
    if len(text) > 60 or _NAME.fullmatch(text) is None:
        return False
    return MULTIPLIERS.search(re.sub(r"\\(?!text)[a-zA-Z]+", " ", text)) is None


def _names(text: str) -> tuple[str, ...]:
    """One name, or those of a point `(x,y)`; empty if it is none."""
    if is_name(text):
        return (compact(text),)
    point = _bracketed(text)
    if point is not None and all(map(is_name, point.items)):
        return tuple(map(compact, point.items))
    return ()


def compact(text: str) -> str:
    return re.sub(r"\s|[{}]|\\text", "", text)


@dataclass(frozen=True)
class Given:
    """Values that are given to names."""

    names: tuple[str, ...]
    sides: tuple[str, ...]
    """All sides behind the name; they must be equal."""


def assignment(node: Node) -> Given | None:
    """`x=5`, `x=10/2=5`, `(x,y)=(1,2)`, `x \\in (0,1)`; for `x=1, y=2` see `_assignments`."""
    if not isinstance(node, Chain) or not node.sides[0] or not all(node.sides):
        return None
    is_equation = set(node.relations) == {"="}
    if not is_equation and node.relations != ("\\in",):
        return None
    names = _names(node.sides[0])
    if not names and is_equation and len(node.sides) == 2 and is_name(node.sides[1]):
        return Given((compact(node.sides[1]),), (node.sides[0],))  # `5 = x`
    return Given(names, node.sides[1:]) if names else None


def assignments(node: Node) -> tuple[tuple[str, str], ...]:
    """The pairs of `x=1, y=2` in the order of coordinates, where these have one, else as written; empty where
    not every item has a name of its own."""
    if not isinstance(node, Several) or node.is_ordered:
        return _of_point(node)
    found = [assignment(read(item)) for item in node.items]
    pairs = [(one.names[0], one.sides[-1]) for one in found if one is not None and len(one.sides) == 1]
    if len(pairs) < len(node.items) or len({name for name, _ in pairs}) < len(pairs):
        return ()
    names = [name for name, _ in pairs]
    order = next((order for order in _COORDINATES if set(names) <= set(order)), names)
    return tuple(sorted(pairs, key=lambda pair: order.index(pair[0])))


_COORDINATES = (
    tuple("xyzw"),
    tuple("abcdefgh"),
    tuple("mn"),
    tuple("pqrst"),
    tuple("uvw"),
    ("r", "\\theta", "z"),
    ("r", "\\theta", "\\phi"),
    ("\\rho", "\\theta", "\\phi"),
)
"""Names of the parts of a point in their usual order."""


def _of_point(node: Node) -> tuple[tuple[str, str], ...]:
    """The pairs of `(x,y)=(1,2)`, in its order."""
    found = assignment(node)
    if found is None or len(found.names) < 2 or len(found.sides) != 1:
        return ()
    values = read(found.sides[0])
    if not isinstance(values, Several) or len(values.items) != len(found.names):
        return ()
    return tuple(zip(found.names, values.items, strict=True))
