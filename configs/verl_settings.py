"""Settings of verl's own that the config passes on as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

Values = dict[str, Any]


def dotted(*settings: Mapping[str, Any] | None) -> Values:
    """The settings by dotted key, each of the mappings laid over those before it.

    `{a.b: {c: 1}}` and `{a: {b.c: 1}}` are both `a.b.c`. An empty mapping sets nothing.
    """
    return {key: value for part in settings for key, value in _leaves(part or {})}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(below, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _each_key_once(settings: Values) -> Values:
    keys = [key for key, _ in _leaves(settings)]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key!r} is given twice, in two spellings")
        above = next((other for other in keys if key.startswith(f"{other}.")), None)
        if above is not None:
            raise ValueError(f"{above!r} is given a value, and {key!r} stands below it")
    return settings


VerlSettings = Annotated[Values, AfterValidator(_each_key_once)]
"""verl's keys, dotted or nested, with their values; `protege check` refuses those that it does not know."""
