"""The shape of the config types: their keys, their kinds, and where in a file a key belongs."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel

NAME, POSITION = "<name>", "[]"
"""In a path: any name of a mapping, any position of a list."""


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


def is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    """Whether the annotation is a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def kind_of(model: type[BaseModel]) -> str:
    """The `kind` that selects this member of a union."""
    literal = model.model_fields["kind"].annotation
    return "/".join(get_args(literal))


def blocks(annotation: object) -> dict[str, type[BaseModel]]:
    """The blocks that an annotation allows, by `kind`; also those inside of a list."""
    inner = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    models = [option for option in members(inner) if is_model(option)]
    return {kind_of(model): model for model in models if "kind" in model.model_fields}


def names(annotation: object) -> tuple[str, ...]:
    """The texts that an annotation allows in so many letters."""
    return tuple(
        value
        for option in members(annotation)
        if get_origin(option) is Literal
        for value in get_args(option)
        if isinstance(value, str)
    )


@dataclass(frozen=True)
class Place:
    """Where in a config a key belongs."""

    path: tuple[str, ...]
    """Keys from the top, with NAME and POSITION."""
    kinds: tuple[str, ...]
    """The kinds of the block that has the key; empty where the block has no kinds."""

    def __str__(self) -> str:
        if not self.path:
            return "the top level"
        shown = ".".join(self.path).replace(f".{POSITION}", POSITION)
        return f"`{shown}`" + (f" (kind {', '.join(self.kinds)})" if self.kinds else "")

    def shared(self, loc: Sequence[str | int]) -> int:
        """How many keys from the top it has in common with a location of the user's."""
        count = 0
        for ours, theirs in zip(self.path, loc, strict=False):
            if ours != theirs and ours != (POSITION if isinstance(theirs, int) else NAME):
                break
            count += 1
        return count


def keys_and_places(root: type[BaseModel]) -> dict[str, tuple[Place, ...]]:
    """Every key below a config type with the places that have it, those near the top first."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for path, model, kind in _walk(root, (), None):
        for key in fields_of(model):
            found.setdefault(key, {}).setdefault(path, []).extend([kind] if kind else [])
    return {
        key: tuple(Place(path, tuple(kinds)) for path, kinds in sorted(places.items(), key=_depth))
        for key, places in found.items()
        if key != "kind"
    }


def _depth(item: tuple[tuple[str, ...], list[str]]) -> int:
    return len(item[0])


def nearest_places(places: Sequence[Place], loc: Sequence[str | int], limit: int = 3) -> list[Place]:
    """Those that share most of their path with a location of the user's, the same block's kinds alone."""
    near = sorted(places, key=lambda place: -place.shared(loc))
    same = near[0].shared(loc) == len(near[0].path) == len(loc)
    return near[: 1 if same else limit]


Walked = Iterator[tuple[tuple[str, ...], type[BaseModel], str | None]]
"""Path, type and, where it is one of several, kind of each block."""


def _walk(annotation: object, path: tuple[str, ...], kind: str | None) -> Walked:
    """Every block from this type on."""
    if is_model(annotation):
        yield path, annotation, kind
        for name, field in annotation.model_fields.items():
            yield from _walk_options(field.annotation, (*path, name))
    elif get_origin(annotation) in (dict, tuple):
        place, part = (1, NAME) if get_origin(annotation) is dict else (0, POSITION)
        yield from _walk_options(get_args(annotation)[place], (*path, part))


def _walk_options(annotation: object, path: tuple[str, ...]) -> Walked:
    options = members(annotation)
    several = sum(map(is_model, options)) > 1
    for option in options:
        has_kind = several and is_model(option) and "kind" in option.model_fields
        yield from _walk(option, path, kind_of(option) if has_kind else None)
