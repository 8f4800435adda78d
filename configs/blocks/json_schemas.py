"""JSON Schemas that judge answers: sound and complete in themselves: no network is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PROBES = ({}, [], "", 0, True, None)
"""A value of every type, which a sound schema accepts or refuses."""


def check_schema(schema: object) -> None:
    """Raises ValueError for an invalid schema, an unknown draft, a `$ref` that leaves the schema, and one
    that leads back to itself."""
    import jsonschema
    from referencing.exceptions import Unresolvable

    if not isinstance(schema, dict):
        raise ValueError(f"a schema is a mapping, got {schema!r:.60}")
    try:
        _class_of(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"no valid JSON Schema: {error.json_path}: {error.message:.200}") from None
    for part, resolver in _parts(schema):
        for key in {"$ref", "$dynamicRef"} & part.keys():
            try:
                resolver.lookup(part[key])
            except Unresolvable:
                raise ValueError(
                    f"no valid JSON Schema: {key} {part[key]!r} is not within the schema; put what it names "
                    "under `$defs` and refer to it as '#/$defs/NAME'"
                ) from None
    if any(_leads_back(schema, value) for value in PROBES):
        raise ValueError(
            "no valid JSON Schema: a $ref in it leads back to itself, so that no value can be judged"
        )


def _leads_back(schema: dict[str, Any], value: Any) -> bool:
    try:
        validator(schema).is_valid(value)
    except BaseException as error:
        # rpds, which keeps the schema's parts, turns a RecursionError into a panic of its own, no Exception
        if isinstance(error, RecursionError) or type(error).__name__ == "PanicException":
            return True
        raise
    return False


def validator(schema: dict[str, Any]) -> Any:
    """A validator of the package jsonschema that resolves references within the schema only."""
    from jsonschema_specifications import REGISTRY

    return _class_of(schema)(schema, registry=REGISTRY)


def json_equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, but true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(json_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return one == other


def _class_of(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    draft = schema.get("$schema", Draft202012Validator.META_SCHEMA["$schema"])
    # The stubs know no default but a validator.
    found = validator_for({"$schema": draft}, default=None) if isinstance(draft, str) else None  # pyright: ignore[reportArgumentType]
    if found is None:
        raise ValueError(f"no known draft of JSON Schema: $schema {draft!r}; leave it out for draft 2020-12")
    return found


def _parts(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """The schema and every schema within, each with a resolver of its references."""
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    left = [(root, REGISTRY.resolver_with_root(root))]
    while left:
        resource, resolver = left.pop()
        if isinstance(resource.contents, dict):
            yield resource.contents, resolver
        left += [(below, resolver.in_subresource(below)) for below in resource.subresources()]
