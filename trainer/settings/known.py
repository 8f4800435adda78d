"""Which keys verl knows: those of its YAML files, and fields of its config classes that stand in no file.

verl builds a dataclass from each section with a `_target_`; a field that the section does not name can be
set all the same. The classes are read as text, since importing them takes torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.words import nearest
from trainer.settings.defaults import default_tree, default_values, package_folder

TARGET = "_target_"
"""Key of a section with the dataclass that verl makes of it."""


@dataclass(frozen=True)
class Known:
    """What verl knows of a key."""

    is_section: bool = False
    """Whether it stands for a section, whose keys are set one by one."""
    default: Any = None
    """Its default; None also where the default is not written in a YAML file."""


def known(trainer: str, key: str) -> Known | None:
    """What verl's configuration knows of a dotted key; None if nothing.

    Below a mapping that verl leaves to its users, such as `...engine_kwargs.vllm`, every key is known.
    """
    node: Any = default_tree(trainer)
    fields: Mapping[str, str] = {}
    for name in key.split("."):
        if isinstance(node, dict) and name in node and name != TARGET:
            node = node[name]
            if node == {} or _is_free(fields.get(name, "")):
                return Known()
            fields = _fields(node[TARGET]) if isinstance(node, dict) and TARGET in node else {}
        elif name in fields:
            annotation = fields[name]
            if _is_free(annotation):
                return Known()
            node, fields = _section(annotation), _fields_of_class(annotation)
        else:
            return None
    return Known(isinstance(node, dict), None if isinstance(node, dict) else node)


def suggestions(trainer: str, key: str) -> list[str]:
    """Keys that a misspelt one, or one with other sections before it, may have meant; at most three."""
    names = [name for name in default_values(trainer) if not name.endswith(TARGET)]
    ending = [name for name in names if name.endswith(f".{key}") or key.endswith(f".{name}")]
    near = nearest(key, names, cutoff=0.75)
    return ending[:3] or ([near] if near else [])


def _is_free(annotation: str) -> bool:
    """Whether a field takes any mapping."""
    return bool(re.match(r"(Optional\[)?[dD]ict\b", annotation))


def _section(annotation: str) -> dict | None:
    """Something that is a section where the annotation names a config class."""
    return {} if _fields_of_class(annotation) else None


def _fields_of_class(annotation: str) -> Mapping[str, str]:
    name = re.sub(r"^Optional\[(.*)\]$", r"\1", annotation)
    return _fields(f"verl.workers.config.{name}") if re.fullmatch(r"\w+Config", name) else {}


# ------------------------------------------------------------------------------- classes, as text


@cache
def _fields(target: str) -> Mapping[str, str]:
    """Annotations of the fields of a dataclass, inherited ones too, by name; empty for an unknown class."""
    package, _, name = target.rpartition(".")
    classes = _classes(package)
    if name not in classes:
        return {}
    found: dict[str, str] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name):
            found |= _fields(f"{package}.{base.id}")
    for item in classes[name].body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = ast.unparse(item.annotation)
    return {field: annotation for field, annotation in found.items() if not field.startswith("_")}


@cache
def _classes(package: str) -> Mapping[str, ast.ClassDef]:
    """Classes of a module of verl, or of all modules of one of its folders, by name."""
    place = package_folder().parent.joinpath(*package.split("."))
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return {
        item.name: item
        for file in files
        if file.is_file()
        for item in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(item, ast.ClassDef)
    }
