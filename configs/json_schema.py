"""The JSON Schema of a config file, for editors that complete and check YAML while it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from configs.schema import MergeConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def editor_schema() -> dict[str, Any]:
    """Pydantic's schema of `MergeConfig`, as strict as the loading is where JSON Schema can say so.

    Rules between several keys (a baseline that is listed twice, a domain without prompts) are left to
    `protege check`.
    """
    schema = MergeConfig.model_json_schema()
    definitions = schema["$defs"]
    for node in _nodes(schema):
        if "discriminator" in node:
            _require_tag(node["discriminator"], definitions)
        if "patternProperties" in node:
            node["additionalProperties"] = False
        if isinstance(node.get("description"), str):
            node["description"] = " ".join(node["description"].split())
    return {"$schema": DIALECT, **schema}


def _require_tag(discriminator: dict[str, Any], definitions: dict[str, Any]) -> None:
    """A block of a union is chosen by its tag, which must be written also where the class has a default."""
    tag = discriminator["propertyName"]
    for reference in discriminator["mapping"].values():
        block = definitions[reference.rpartition("/")[2]]
        if tag not in block.setdefault("required", []):
            block["required"].insert(0, tag)


def _nodes(value: object) -> Iterator[dict[str, Any]]:
    """Every mapping in the schema."""
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(below)
