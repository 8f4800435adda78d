"""YAML as a config's author means it, and of a size that can be walked through.

Numbers are those of YAML 1.2: `1e-6` is one; `010` and `1:30`, which YAML 1.1 takes for 8 and 90, are text,
which no number's place accepts. Lists, mappings and plain values are all that there is: other tags, keys that
are not plain or are given twice, deep nesting, and aliases that refer to themselves or multiply into a huge
value are refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError

if TYPE_CHECKING:
    import yaml

Loc = tuple[str | int, ...]
"""Where a value stands in the config: keys and list positions from the root."""

FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
"""A plain text that is a number; who writes YAML must quote it where text is meant."""

NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$")
INT = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*|0x[0-9a-fA-F]+)$")

NUMBERS = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")

LARGEST_VALUES = 100_000
"""Values in a document, those of an alias counted wherever it stands."""

LARGEST_NESTING = 50
"""Levels of lists and mappings."""


MOST_OPEN = 4 * LARGEST_NESTING
"""Brackets that may be open at a place, those in texts included: PyYAML takes minutes for thousands."""


@cache
def yaml_loader() -> type[yaml.SafeLoader]:
    """A safe loader that reads numbers as YAML 1.2 does."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own)
            first: [(tag, pattern) for tag, pattern in resolvers if tag not in NUMBERS]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    for pattern in (FLOAT, NOT_FINITE):
        Loader.add_implicit_resolver(NUMBERS[0], pattern, list("-+.0123456789"))
    Loader.add_implicit_resolver(NUMBERS[1], INT, list("-+0123456789"))
    return Loader


def parse_yaml(text: str, where: str, lines: bool = True) -> tuple[Any, dict[Loc, int]]:
    """The document's value (None where it is empty), and the line of everything in it.

    Raises ConfigError that begins with `where`, followed by the line unless `lines` is off.
    """
    import yaml

    def place(line: int | None) -> str:
        return f"{where}:{line}" if lines and line else where

    if _open_brackets(text) > MOST_OPEN:
        raise ConfigError(f"{where}: not valid YAML: nested too deeply")
    try:
        loader = yaml_loader()(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _Walk(loader, place).check(root)
        value = loader.construct_document(root)
    except yaml.YAMLError as error:
        from configs.reading.yaml_errors import explain_yaml

        line, what = explain_yaml(error, text)
        raise ConfigError(f"{place(line)}: not valid YAML: {what}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        # a date that is none, a number of thousands of digits, of which Python's advice is not meant
        raise ConfigError(f"{where}: not valid YAML: {str(error).partition(';')[0]}") from None
    # constructing has expanded merge keys (<<) in the nodes, so these are the keys of the value
    return value, dict(_lines(root, loader))


def _open_brackets(text: str) -> int:
    steps = (1 if sign in "[{" else -1 for sign in text if sign in "[{]}")
    return max(itertools.accumulate(steps), default=0)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


class _Walk:
    """Visits every node of a document once, however many aliases refer to it."""

    def __init__(self, loader: yaml.SafeLoader, place: Any) -> None:
        self.loader, self.place = loader, place
        self.sizes: dict[int, tuple[int, int]] = {}
        """Values of each node that was visited, and their levels, aliases expanded."""

    def check(self, root: yaml.Node) -> None:
        """Raises ConfigError for what no config can hold."""
        values, levels = self._size(root, ())
        if values > LARGEST_VALUES:
            self._refuse(root, f"its aliases stand for more than {LARGEST_VALUES} values; write it shorter")
        if levels > LARGEST_NESTING:
            self._refuse(root, f"nested deeper than {LARGEST_NESTING} levels")

    def _refuse(self, node: yaml.Node, what: str) -> None:
        raise ConfigError(f"{self.place(_line(node))}: {what}")

    def _size(self, node: yaml.Node, above: tuple[int, ...]) -> tuple[int, int]:
        import yaml

        if id(node) in above:
            self._refuse(node, "a YAML alias refers to a value that contains it")
        if id(node) not in self.sizes:
            self._check_tag(node)
            self._check_keys(node)
            below = (*above, id(node))
            values, levels = 1, 0
            for inner in _inside(node):
                size, height = self._size(inner, below)
                values, levels = values + size, max(levels, height)
            self.sizes[id(node)] = values, levels + (not isinstance(node, yaml.ScalarNode))
        return self.sizes[id(node)]

    def _check_tag(self, node: yaml.Node) -> None:
        """A tag must say what the value is anyway, or that it is text."""
        import yaml

        if isinstance(node, yaml.ScalarNode) and re.search("[\ud800-\udfff]", node.value):
            self._refuse(node, "holds half of a character (a lone surrogate)")
        plain = self.loader.resolve(type(node), getattr(node, "value", None), (True, False))
        if node.tag not in (plain, "tag:yaml.org,2002:str") or (
            node.tag != plain and not isinstance(node, yaml.ScalarNode)
        ):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(node, f"not valid YAML here: the tag {tag} does not fit the value; leave it out")

    def _check_keys(self, node: yaml.Node) -> None:
        import yaml

        first: dict[str, int] = {}
        for key, _value in _entries(node):
            if not isinstance(key, yaml.ScalarNode):
                kind = "sequence" if isinstance(key, yaml.SequenceNode) else "mapping"
                self._refuse(key, f"a key must be a plain name, not {kind}")
            if key.value in first:
                self._refuse(key, f"key {key.value!r} is given twice; first on line {first[key.value]}")
            first[key.value] = _line(key)


def _items(node: yaml.Node) -> list[yaml.Node]:
    """What stands in a list; nothing for another node."""
    import yaml

    return node.value if isinstance(node, yaml.SequenceNode) else []


def _entries(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    """Key and value of each entry of a mapping; nothing for another node."""
    import yaml

    return node.value if isinstance(node, yaml.MappingNode) else []


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    yield from _items(node)
    for key, value in _entries(node):
        yield key
        yield value


def _lines(node: yaml.Node, loader: yaml.SafeLoader, loc: Loc = ()) -> Iterator[tuple[Loc, int]]:
    """Every value's location with its line; a mapping's entry is placed at its key."""
    if not loc:
        yield (), _line(node)
    for key, value in _entries(node):
        below = (*loc, loader.construct_object(key))
        yield below, _line(key)
        yield from _lines(value, loader, below)
    for position, value in enumerate(_items(node)):
        yield (*loc, position), _line(value)
        yield from _lines(value, loader, (*loc, position))
