"""What differs from kind to kind is in the blocks of the config and in the registries, not in branches."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from types import UnionType
from typing import Annotated, get_args, get_origin

import pytest

import configs.blocks
from configs.blocks.strict import Strict
from tests.helpers.paths import ROOT

PACKAGES = ("common", "trainer", "routing", "eval", "teachers", "merging")

ALLOWED = {
    "merging/training/agreement.py: AgreementRouting": "an assertion that tells the type",
    "merging/sweep.py: baseline.kind": "a sweep that trains lambda 1 leaves `opd` out by its name",
}
"""Place and kind of every question that may be asked outside `configs`, with the reason."""


def _is_block(value: object) -> bool:
    """Whether this is a block's type, or an alias for several."""
    if get_origin(value) is Annotated or isinstance(value, UnionType):
        return any(map(_is_block, get_args(value)))
    return isinstance(value, type) and issubclass(value, Strict)


MODULES = [
    importlib.import_module(f"configs.blocks.{found.name}")
    for found in pkgutil.iter_modules(configs.blocks.__path__)
]
BLOCKS = {name for module in MODULES for name, value in vars(module).items() if _is_block(value)}


def questions(source: str) -> list[str]:
    """The config kinds that the source asks for: by `isinstance`, in a `case`, or by an expert's or a
    baseline's `kind`."""
    asked = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked += [name for part in ast.walk(node.args[1]) if (name := _name(part)) in BLOCKS]
        if isinstance(node, ast.MatchClass) and _name(node.cls) in BLOCKS:
            asked.append(_name(node.cls))
        if isinstance(node, ast.Compare):
            for part in (node.left, *node.comparators):
                if isinstance(part, ast.Attribute) and part.attr == "kind":
                    owner = _name(part.value)
                    asked += [f"{owner}.kind"] if owner in ("expert", "baseline", "block") else []
    return asked


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_no_branch_asks_for_the_kind_of_a_block():
    found = {
        f"{path.relative_to(ROOT)}: {kind}"
        for package in PACKAGES
        for path in sorted(Path(ROOT / package).rglob("*.py"))
        for kind in questions(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("isinstance(domain.expert, RLExpert)", ["RLExpert"]),
        ("isinstance(x, ModelExpert | experts.AdapterExpert)", ["ModelExpert", "AdapterExpert"]),
        ("isinstance(x, (TrainedBaseline, str))", ["TrainedBaseline"]),
        ("match x:\n    case GrpoBaseline():\n        pass", ["GrpoBaseline"]),
        ("if domain.expert.kind == 'rl':\n    pass", ["expert.kind"]),
        ("isinstance(x, str)", []),
        ("METHODS[baseline.kind]", []),
    ],
)
def test_a_planted_question_is_seen(source, asked):
    assert sorted(questions(source)) == sorted(asked)
