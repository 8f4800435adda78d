"""Pydantic's validation errors in the user's terms: what was expected, what was given, what is valid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic_core import ErrorDetails

from common.words import did_you_mean, nearest
from configs.reading.shape import fields_of, is_model, keys_and_places, kind_of, members, nearest_places
from configs.schema import MergeConfig

Loc = tuple[str | int, ...]

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "path": "a path (text)",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def explain(error: ErrorDetails, data: object) -> tuple[Loc, str]:
    """Where in the user's `data` an item of `ValidationError.errors()` stands, and its message."""
    loc = _users_loc(error, data)
    kind, context = error["type"], error.get("ctx", {})
    given = _brief(error.get("input"))
    if kind == "extra_forbidden":
        return loc, f"unknown key; {_about_key(loc, _keys_at(error['loc'][:-1]))}"
    if kind == "missing":
        return loc, "required key is missing"
    if kind == "union_tag_invalid":
        kinds = _names(context["expected_tags"])
        return (*loc, "kind"), f"unknown kind {context['tag']!r}; {_choices(context['tag'], 'kinds', kinds)}"
    if kind == "union_tag_not_found":
        return loc, f"`kind` is missing; valid kinds: {', '.join(_kinds_at(error['loc']))}"
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        return loc, f"expected a mapping, got {given}"
    if kind == "literal_error":
        return loc, f"got {given}; {_choices(str(error.get('input')), 'values', _names(context['expected']))}"
    if kind in _LIMITS:
        word, limit = _LIMITS[kind]
        return loc, f"must be {word} {context[limit]:g}, got {given}"
    if kind == "string_pattern_mismatch":
        return loc, f"{given} is no valid name: use letters, digits, `_`, `.`, `-`, and no sign first"
    if kind == "too_short":
        return loc, f"needs at least {context['min_length']} entry"
    if kind == "value_error":
        return loc, str(context["error"])
    expected = _EXPECTED.get(kind.partition("_")[0])
    if expected and kind.endswith(("_type", "_parsing", "_from_float", "_parsing_size")):
        return loc, f"expected {expected}, got {given}"
    return loc, f"{error['msg'][0].lower()}{error['msg'][1:]}, got {given}"


def _users_loc(error: ErrorDetails, data: Any) -> Loc:
    """The error's location without the union tags that pydantic puts into it."""
    loc: Loc = ()
    for position, part in enumerate(error["loc"]):
        last = position == len(error["loc"]) - 1
        if _holds(data, part):
            data = data[part]
            loc = (*loc, part)
        elif last and error["type"] == "missing":
            loc = (*loc, part)
    return loc


def _holds(data: object, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _types_at(loc: Loc) -> list[Any]:
    """The schema's types at a location of pydantic's (with union tags)."""
    found: list[Any] = [MergeConfig]
    for part in loc:
        unions = [m for m in found if is_model(m)]
        tagged = [m for m in unions if len(unions) > 1 and "kind" in m.model_fields and kind_of(m) == part]
        below = [below for m in found for below in _below(m, part)]
        found = tagged or below or found  # a tag that only tells a name from a block leads no further
    return found


def _below(annotation: object, part: str | int) -> list[Any]:
    if is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return members(field.annotation) if field else []
    if get_origin(annotation) is dict:
        return members(get_args(annotation)[1])
    if get_origin(annotation) is tuple:
        return members(get_args(annotation)[0])
    return []


def _keys_at(loc: Loc) -> list[str]:
    return [key for model in _types_at(loc) if is_model(model) for key in fields_of(model)]


def _kinds_at(loc: Loc) -> list[str]:
    return [kind_of(model) for model in _types_at(loc) if is_model(model)]


def _names(expected: str) -> list[str]:
    """Pydantic's list of alternatives (`'a', 'b' or 'c'`) as names."""
    return [part.strip(" '") for part in expected.replace(" or ", ", ").split(",")]


def _choices(given: str, what: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    return f"{did_you_mean(given, valid)}valid {what}: {', '.join(valid)}"


_ALSO_CALLED = {"lambda": "reward_scale", "lr": "learning_rate", "batch_size": "prompts_per_step"}
"""Names that the field has for keys of ours."""


def _about_key(loc: Loc, valid: list[str]) -> str:
    """What an unknown key may have meant: one that is valid there, or the same key in another place."""
    key, known = str(loc[-1]), keys_and_places(MergeConfig)
    meant = _ALSO_CALLED.get(key, key)
    if meant in valid:
        return f"did you mean {meant!r}? valid keys: {', '.join(valid)}"
    hint = did_you_mean(key, valid)
    if meant not in known and not hint:
        meant = nearest(key, known, cutoff=0.8) or key
    if meant not in known:
        return f"{hint}valid keys: {', '.join(valid)}"
    *rest, last = map(str, nearest_places(known[meant], loc[:-1]))
    places = f"{', '.join(rest)} or {last}" if rest else last
    return f"{hint}`{meant}` belongs to {places}; valid keys: {', '.join(valid)}"


def _brief(value: object) -> str:
    """A value in at most 60 characters, with its type where that may be the point."""
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(str, value)) or 'no keys'}"[:60]
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"the text {text}" if isinstance(value, str) else text
