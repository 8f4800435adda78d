"""Pydantic's validation errors in the user's terms: what was expected, what was given, what is valid."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

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


def explain(error: dict[str, Any], data: object) -> tuple[Loc, str]:
    """Where in the user's `data` an item of `ValidationError.errors()` stands, and its message."""
    loc = _users_loc(error, data)
    kind, context = error["type"], error.get("ctx", {})
    given = _brief(error.get("input"))
    if kind == "extra_forbidden":
        return loc, f"unknown key; {_choices(str(error['loc'][-1]), 'keys', _keys_at(error['loc'][:-1]))}"
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


def fields_of(model: type[BaseModel]) -> list[str]:
    """The model's keys, in the order of the schema."""
    return list(model.model_fields)


def members(annotation: object) -> list[Any]:
    """The types that an annotation allows, without `Annotated` and without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for arg in get_args(annotation) for m in members(arg) if m is not type(None)]
    return [annotation]


def kind_of(model: type[BaseModel]) -> str:
    """The `kind` that selects this member of a union."""
    literal = model.model_fields["kind"].annotation
    return "/".join(get_args(literal))


def is_model(annotation: object) -> bool:
    """Whether the annotation is a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _users_loc(error: dict[str, Any], data: object) -> Loc:
    """The error's location without the union tags that pydantic puts into it."""
    loc: Loc = ()
    for position, part in enumerate(error["loc"]):
        last = position == len(error["loc"]) - 1
        inside_dict = isinstance(data, dict) and part in data
        inside_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside_dict or inside_list:
            data = data[part]
            loc = (*loc, part)
        elif last and error["type"] == "missing":
            loc = (*loc, part)
    return loc


def _types_at(loc: Loc) -> list[Any]:
    """The schema's types at a location of pydantic's (with union tags)."""
    found: list[Any] = [MergeConfig]
    for part in loc:
        unions = [m for m in found if is_model(m)]
        tagged = [m for m in unions if len(unions) > 1 and "kind" in m.model_fields and kind_of(m) == part]
        found = tagged or [below for m in found for below in _below(m, part)]
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
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}valid {what}: {', '.join(valid)}"


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
