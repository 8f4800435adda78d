"""Compares answers of several parts, part by part: pure text, no sympy.

What the parts are says `eval.grading.maths.structure`; `Judge` says of single values what it can say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from eval.grading.maths.numbers import plain_number
from eval.grading.maths.structure import (
    Chain,
    Leaf,
    Node,
    Ratio,
    Several,
    Table,
    Union,
    assignment,
    assignments,
    compact,
    is_name,
    read,
)

MAX_MATCHED = 12
"""Longer lists without an order are compared in the order of their texts."""


@dataclass(frozen=True)
class Judge:
    """Compares single values, as (expected, given): True, False, or None where it cannot tell."""

    answers: Callable[[str, str], bool | None]
    """Whether the given text is the expected answer: where a number is expected, only a number is."""
    equals: Callable[[str, str], bool | None]
    """Whether both have the same value, as the sides of `12+70=82` have."""


def compare(expected: str, given: str, judge: Judge) -> bool | None:
    """Whether a normal text is the expected answer; None where the judge cannot tell."""
    return _compare(read(expected), read(given), judge)


def _compare(expected: Node, given: Node, judge: Judge) -> bool | None:
    points = _points(expected, given)
    if points is not None:
        return _in_order(*points, judge)
    if isinstance(expected, Chain) or isinstance(given, Chain):
        return _chains(expected, given, judge)
    if isinstance(expected, Leaf) and isinstance(given, Leaf):
        return judge.answers(expected.text, given.text)
    if isinstance(expected, Table) or isinstance(given, Table):
        return _tables(expected, given, judge)
    if isinstance(expected, Ratio) or isinstance(given, Ratio):
        return _ratios(expected, given, judge)
    if isinstance(expected, Union) or isinstance(given, Union):
        if isinstance(expected, Union) and isinstance(given, Union):
            return _unordered(expected.items, given.items, judge)
        return _set_or_none(expected, given, judge)
    return _lists(expected, given, judge)


def _set_or_none(expected: Node, given: Node, judge: Judge) -> bool | None:
    """Sets written as expressions (`\\mathbb{R} \\setminus \\{1\\}`) are left to the judge."""
    for node, other in ((expected, given), (given, expected)):
        if isinstance(node, Leaf) and re.search(r"\\setminus|\\cap|\\mathbb|\\pi|k|n", node.text):
            texts = (_text(expected), _text(given))
            return judge.answers(*texts) if isinstance(other, Union) else False
    return False


def _text(node: Node) -> str:
    if isinstance(node, Union):
        return " \\cup ".join(node.items)
    if isinstance(node, Several):
        return f"{node.opening}{', '.join(node.items)}{node.closing}"
    return ":".join(node.items) + node.suffix if isinstance(node, Ratio) else node.text


def _points(expected: Node, given: Node) -> tuple[Sequence[str], Sequence[str]] | None:
    """The coordinates of points of which at least one names them, `x=1, y=2`; None for anything else.

    Where both have names these tell which belong together, whatever the order in which they are written.
    """
    wanted, found = assignments(expected), assignments(given)
    if wanted and found:
        wanted, found = sorted(wanted), sorted(found)
        same = [name for name, _ in wanted] == [name for name, _ in found]
        return (_second(wanted), _second(found)) if same else ((), ("",))
    plain = given if wanted else expected
    if not (wanted or found) or not isinstance(plain, Several):
        return None
    if not wanted and not plain.is_ordered:
        return None  # a list without order, and each item may say of what it is the value
    if len({name.split("_")[0] for name, _ in wanted}) < len(wanted):
        return None  # roots `x_1=1, x_2=2` have no order
    if plain.opening not in ("", "("):
        return (), ("",)
    return _second(wanted) if wanted else plain.items, _second(found) if found else plain.items


def _second(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(value for _, value in pairs)


def _items(expected: str, given: str, judge: Judge) -> bool | None:
    return _compare(read(expected), read(given), judge)


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """False if one is False, else None if one is None."""
    found: list[bool | None] = []
    for verdict in verdicts:
        if verdict is False:
            return False
        found.append(verdict)
    return None if None in found else True


# ------------------------------------------------------------------------- equations, inequalities


def _chains(expected: Node, given: Node, judge: Judge) -> bool | None:
    wanted, found = assignment(expected), assignment(given)
    if isinstance(expected, Chain) and wanted is None:
        return _relations(expected, given, judge)
    if wanted is not None and found is not None and wanted.names != found.names:
        return judge.answers(_text(expected), _text(given))  # perhaps the same equation, solved otherwise
    if wanted is not None:
        expected = read(wanted.sides[-1])
    if found is not None:
        return _last_side(expected, found.sides, judge, found.names)
    if not isinstance(given, Chain):
        return _compare(expected, given, judge)
    if set(given.relations) == {"="}:
        if wanted is not None and len(given.sides) == 2:
            return judge.answers(f"{wanted.names[0]}={wanted.sides[-1]}", given.text)
        return _last_side(expected, given.sides, judge)
    return _intervals(expected, given, judge)


def _last_side(
    expected: Node, sides: tuple[str, ...], judge: Judge, names: tuple[str, ...] = ()
) -> bool | None:
    """What a chain of equations ends with is the answer, and what stands before has the same value."""
    *before, last = sides
    if len(last) == 1 and last.isalpha() and all(len(name) == 1 for name in names or before):
        return False  # `A=B` chooses neither
    if any(re.search(rf"(?<![a-zA-Z\\]){re.escape(name)}(?![a-zA-Z])", last) for name in names):
        return False
    verdict = _compare(expected, read(last), judge) if all(sides) else False
    return verdict and all_of([verdict, *(judge.equals(last, side) for side in before)])


def _relations(expected: Chain, given: Node, judge: Judge) -> bool | None:
    """An equation of no single name, or inequalities."""
    if set(expected.relations) == {"="}:
        if not isinstance(given, Chain) or given.relations != expected.relations:
            return False
        return judge.answers(expected.text, given.text)
    if isinstance(given, Chain) and given.relations == expected.relations:
        pairs = zip(expected.sides, given.sides, strict=True)
        verdict = all_of(judge.answers(mine, other) for mine, other in pairs)
        if verdict is not False:
            return verdict
        if expected.relations == ("\\ne",):
            pairs = zip(expected.sides, given.sides[::-1], strict=True)
            return all_of(judge.answers(mine, other) for mine, other in pairs)
    return _intervals(expected, given, judge)


def _intervals(expected: Node, given: Node, judge: Judge) -> bool | None:
    """`0 < x \\le 1` is `(0, 1]`."""
    wanted, found = _as_set(expected), _as_set(given)
    if wanted is None or found is None:
        are_chains = isinstance(expected, Chain) and isinstance(given, Chain)
        return judge.answers(_text(expected), _text(given)) if are_chains else False
    (my_name, mine), (name, other) = wanted, found
    return False if my_name and name and my_name != name else _compare(mine, other, judge)


def _as_set(node: Node) -> tuple[str, Node] | None:
    """The variable, where there is one, and an interval or a union of them."""
    if isinstance(node, Several):
        return ("", node) if node.is_ordered and len(node.items) == 2 else None
    if isinstance(node, Union):
        found = [_as_set(read(item)) for item in node.items]
        sets = [one for one in found if one is not None]
        if len(sets) < len(found) or len({name for name, _ in sets}) > 1:
            return None
        return sets[0][0], Union(tuple(_text(one) for _, one in sets))
    if not isinstance(node, Chain):
        return None
    sides, relations = [*node.sides], [*node.relations]
    if relations == ["\\ne"] and is_name(sides[0]):
        return sides[0], Union((f"(-\\infty,{sides[1]})", f"({sides[1]},\\infty)"))
    if set(relations) - {"<", "\\le"} or len(sides) > 3:
        return None
    if len(sides) == 2 and is_name(sides[0]):
        sides, relations = ["-\\infty", *sides], ["<", *relations]
    elif len(sides) == 2:
        sides, relations = [*sides, "\\infty"], [*relations, "<"]
    if not is_name(sides[1]):
        return None
    brackets = "(" if relations[0] == "<" else "[", ")" if relations[1] == "<" else "]"
    return sides[1], Several(*brackets, (sides[0], sides[2]))


# ------------------------------------------------------------------------- lists, tables, ratios


def _lists(expected: Node, given: Node, judge: Judge) -> bool | None:
    if isinstance(expected, Several) and isinstance(given, Several):
        if not _brackets_agree(given, expected):
            return False
        if expected.is_ordered:
            return _in_order(expected.items, given.items, judge)
        return _unordered(expected.items, given.items, judge)
    mine, other = _members(expected), _members(given)
    return _in_order(mine, other, judge) if len(mine) == len(other) == 1 else False


def _members(node: Node) -> tuple[str, ...]:
    """A set of one value is that value."""
    if isinstance(node, Several):
        return node.items if node.opening == "\\{" else ()
    return () if _text(node).strip() == "\\emptyset" else (_text(node),)


def _brackets_agree(given: Several, expected: Several) -> bool:
    """The same brackets, or none where they say nothing: `1,2` for `(1,2)` and for `\\{1,2\\}`."""
    if (given.opening, given.closing) == (expected.opening, expected.closing):
        return True
    loose = ("", "(", "\\{") if "" in (given.opening, expected.opening) else ()
    return (
        given.opening in loose and expected.opening in loose and "]" not in (given.closing, expected.closing)
    )


def _in_order(expected: Sequence[str], given: Sequence[str], judge: Judge) -> bool | None:
    if len(expected) != len(given):
        return False
    return all_of(_items(mine, other, judge) for mine, other in zip(expected, given, strict=True))


def _unordered(expected: Sequence[str], given: Sequence[str], judge: Judge) -> bool | None:
    """Whether each value can be given a partner of its own."""
    if len(expected) != len(given):
        return False
    if len(expected) > MAX_MATCHED:
        return _in_order(sorted(expected, key=_order), sorted(given, key=_order), judge)
    verdicts = [[_items(mine, other, judge) for other in given] for mine in expected]
    if _matched([[verdict is True for verdict in row] for row in verdicts]):
        return True
    return None if _matched([[verdict is not False for verdict in row] for row in verdicts]) else False


def _order(text: str) -> tuple[bool, Fraction, str]:
    number = plain_number(text)
    return number is None, number.value if number is not None else Fraction(0), compact(text)


def _matched(fits: list[list[bool]]) -> bool:
    """Whether every row has a column of its own (augmenting paths)."""
    rows_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in rows_of or place(rows_of[column], tried):
                    rows_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def _tables(expected: Node, given: Node, judge: Judge) -> bool | None:
    """Cell by cell; a row or column is also a point."""
    if isinstance(expected, Table) and isinstance(given, Table):
        if expected.kind != given.kind or [*map(len, expected.rows)] != [*map(len, given.rows)]:
            return False
        return _in_order(_cells(expected), _cells(given), judge)
    for node, other in ((expected, given), (given, expected)):
        if isinstance(node, Table) and isinstance(other, Several) and other.opening == "(":
            is_vector = node.kind == "matrix" and (len(node.rows) == 1 or {*map(len, node.rows)} == {1})
            mine, others = _cells(node), other.items
            if node is given:
                mine, others = others, mine
            return _in_order(mine, others, judge) if is_vector else False
    is_computed = isinstance(given, Leaf) or isinstance(expected, Leaf)
    return judge.answers(_text(expected), _text(given)) if is_computed else False


def _cells(table: Table) -> tuple[str, ...]:
    return tuple(cell for row in table.rows for cell in row)


_FRACTION = re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}|([^/]+)/([^/]+)")


def _ratios(expected: Node, given: Node, judge: Judge) -> bool | None:
    """Part by part: `6:8` is not `3:4`, since `12:30` may be a time. `3:4` may be written as a fraction."""
    wanted, found = _ratio_of(expected), _ratio_of(given)
    if wanted is None or found is None or (wanted.suffix and found.suffix and wanted.suffix != found.suffix):
        return False
    return _in_order(wanted.items, found.items, judge)


def _ratio_of(node: Node) -> Ratio | None:
    if isinstance(node, Ratio):
        return node
    fraction = _FRACTION.fullmatch(node.text) if isinstance(node, Leaf) else None
    return Ratio(tuple(part.strip() for part in fraction.groups() if part), "") if fraction else None
