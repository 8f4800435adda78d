"""`python -m configs.schema_doc` writes docs/config.md and docs/config.schema.json from the schema."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from common.files import write_text
from configs.json_schema import editor_schema
from configs.reading.shape import is_model, kind_of, members
from configs.schema import MergeConfig

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """# Config reference

Written from the types in `configs/` by `python -m configs.schema_doc`; `config.schema.json` is the same for
editors. Unknown keys are refused. A relative path is read from the config file's folder; a model is a
local folder if it is written as a path (`./`, `../`, `/`, `~`) or is found from there, else a hub name.
Whole numbers are below 2^31.
`--set a.b.c=value` overrides any key, lists by position (`domains.math.benchmarks.0.limit=5`).
"""


def markdown() -> str:
    """The reference: one table a config type, in the order in which the types are reached."""
    return "\n".join([HEAD, *(_section(model) for model in _models())])


def json_schema() -> str:
    """The JSON schema of a config file, as text."""
    return json.dumps(editor_schema(), indent=1) + "\n"


def files() -> dict[Path, str]:
    """The generated files and their content."""
    return {DOCS / "config.md": markdown(), DOCS / "config.schema.json": json_schema()}


def main() -> None:
    """Write the files, each whole or not at all."""
    for path, text in files().items():
        write_text(path, text)
        print(path)


def _models() -> list[type[BaseModel]]:
    """Every config type, each once, breadth first."""
    found: list[type[BaseModel]] = [MergeConfig]
    for model in found:
        for field in model.model_fields.values():
            found += [below for below in _models_in(field.annotation) if below not in found]
    return found


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if is_model(annotation):
        return [annotation]
    options = members(annotation)
    inner = options if options != [annotation] else get_args(annotation)
    return [model for option in inner for model in _models_in(option)]


def _section(model: type[BaseModel]) -> str:
    title = model.__name__ if model is not MergeConfig else "The file (MergeConfig)"
    kind = f" (`kind: {kind_of(model)}`)" if _is_alternative(model) else ""
    rows = [_row(name, field, kind) for name, field in model.model_fields.items()]
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {title}{kind}", "", _one_line(model.__doc__), "", *table, ""])


def _row(name: str, field: FieldInfo, alternative: str) -> str:
    if field.is_required() or (name == "kind" and alternative):
        default = "required"
    elif is_model(type(field.default)):
        default = "its defaults"
    else:
        default = f"`{_yaml(field.default)}`"
    meaning = _one_line(field.description) or ("Which kind this is." if name == "kind" else "")
    return f"| `{name}` | {_cell(_type(field))} | {default} | {_cell(meaning)} |"


def _type(field: FieldInfo) -> str:
    return _name(field.annotation) + _limits(field.metadata)


def _name(annotation: object) -> str:
    """A type in words, with links to other sections."""
    if is_model(annotation):
        return f"[{annotation.__name__}](#{_anchor(annotation)})"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(inner[0]) + _limits(inner[1:])
    if origin is Literal:
        return " / ".join(f"`{value}`" for value in inner)
    if origin is dict:
        return f"mapping from name to {_name(inner[1])}"
    if origin is tuple:
        return f"list of {_name(inner[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_name(option) for option in inner)
    words = {int: "whole number", float: "number", str: "text", bool: "true / false", Path: "path"}
    words |= {Any: "any value"}
    return {**words, type(None): "null"}[annotation]


def _anchor(model: type[BaseModel]) -> str:
    return model.__name__.lower() + (f"-kind-{kind_of(model)}" if _is_alternative(model) else "")


def _is_alternative(model: type[BaseModel]) -> bool:
    """Whether the model is one of several, chosen by `kind`."""
    return any(model in group and len(group) > 1 for group in _groups())


def _groups() -> list[list[type[BaseModel]]]:
    """The config types that each field of the schema may hold."""
    return [_models_in(field.annotation) for model in _models() for field in model.model_fields.values()]


UNSAID = (None, 2**31)
"""No limit, and that of every whole number, which the head tells."""


def _limits(metadata: Iterable[object]) -> str:
    """The limits among a type's annotations, in words."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "min_length": "length at least"}
    found = []
    for item in metadata:
        for part in item.metadata if isinstance(item, FieldInfo) else [item]:
            limits = {key: getattr(part, key, None) for key in words}
            found += [f"{words[key]} {limit}" for key, limit in limits.items() if limit not in UNSAID]
    return f" ({', '.join(found)})" if found else ""


def _yaml(value: object) -> str:
    assert value is not PydanticUndefined
    return json.dumps(value, default=lambda item: item.model_dump() if is_model(type(item)) else str(item))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
