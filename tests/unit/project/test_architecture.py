"""The shape of the code: who may import whom, what stays light, how long a file gets."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT

ALLOWED = {
    "common": set(),
    "configs": {"common"},
    "trainer": {"common", "configs"},
    "routing": {"common", "configs"},
    "eval": {"common", "configs"},
    "teachers": {"common", "configs", "trainer", "routing", "eval"},
    "merging": {"common", "configs", "trainer", "routing", "eval", "teachers"},
}
"""What each package may import of the others, also inside functions and for types only."""

NOT_SHIPPED = {"tests", "benchmarks"}
MAX_LINES = 400
MAX_MODULES = 12


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


ALL_FILES = [path for package in [*ALLOWED, *sorted(NOT_SHIPPED)] for path in python_files(package)]


def imports(source: str) -> list[tuple[int, str]]:
    """Line and full module name of every import, in functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "." * node.level + (node.module or "")))
    return found


def violations(package: str, source: str) -> list[str]:
    """Imports of this source that its package may not make."""
    forbidden = (ALLOWED.keys() | NOT_SHIPPED) - ALLOWED[package] - {package}
    return [
        f"line {line}: {name}"
        for line, name in imports(source)
        if name.startswith(".") or name.partition(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_downwards_only(package):
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in python_files(package)
        if (wrong := violations(package, path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_check_sees_every_way_to_import():
    source = (
        "import merging.cli.main\ndef f():\n    from trainer import job\n    import eval.records as r\n"
        "from . import x\n"
    )
    assert violations("routing", source) == [
        "line 1: merging.cli.main",
        "line 5: .",
        "line 3: trainer",
        "line 4: eval.records",
    ]
    assert violations("merging", "import teachers.scoring.scorer, json\nimport trainer.job\n") == []


# --------------------------------------------------------------------------------- circles, rooms


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """By module: the modules among `sources` (name to text) that it imports anywhere, in functions and for
    types too. `from package import module` counts as an import of the module."""
    graph = {}
    for name, source in sources.items():
        named = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = (named & sources.keys()) - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, the first again at the end; empty where there is none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {
    module_name(path): path.read_text(encoding="utf-8") for name in ALLOWED for path in python_files(name)
}


def test_no_modules_import_one_another_in_a_circle():
    assert circle(import_graph(SOURCES)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import merging.run\n",
        "from merging import run\n",
        "def late():\n    from merging.run import merge\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from merging.run import merge\n",
    ],
)
def test_a_planted_circle_is_found(planted):
    name = "merging.state.run_folder"
    ring = circle(import_graph(SOURCES | {name: SOURCES[name] + "\n" + planted}))
    assert {"merging.run", name} <= set(ring)


def test_no_folder_holds_too_many_modules():
    counts = Counter(
        str(path.parent.relative_to(ROOT))
        for name in ALLOWED
        for path in python_files(name)
        if path.name != "__init__.py"
    )
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_unit_tests_mirror_the_packages():
    """`tests/unit/<folder>` holds the tests of that folder; `project` those of the repository as a whole."""
    unit = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")} - {Path("project")}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def reaches_in(source: str) -> list[str]:
    """Imports of tests, and private names of others that are imported, read, or set by `setattr`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names, ours = [], True
        if isinstance(node, ast.ImportFrom) and node.module:
            ours = node.module.partition(".")[0] in ALLOWED.keys() | NOT_SHIPPED
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if own else [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            names = [
                part
                for text in node.args
                if isinstance(text, ast.Constant)
                for part in str(text.value).split(".")
            ]
        wrong = [
            name for name in names if is_private(name) or (isinstance(node, ast.ImportFrom) and is_test(name))
        ]
        found += [f"line {node.lineno}: {name}" for name in wrong if ours]
    return sorted(found)


def is_private(name: str) -> bool:
    of_named_tuples = ("_replace", "_asdict", "_fields", "_make")
    return name.startswith("_") and not name.startswith("__") and name not in of_named_tuples


def is_test(name: str) -> bool:
    return name.startswith("test_")


def test_no_test_imports_another_test_or_a_private_name():
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in python_files("tests")
        if (wrong := reaches_in(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.unit.test_x import a", ["line 1: test_x"]),
        ("from eval.suite import _versions", ["line 1: _versions"]),
        ("def f():\n    from eval import suite\n    suite._versions()", ["line 3: _versions"]),
        ("monkeypatch.setattr(suite, '_versions', None)", ["line 1: _versions"]),
        ("patch.setattr('eval.suite._versions', None)", ["line 1: _versions"]),
        ("scorer._batches", ["line 1: _batches"]),
        ("self._mine, pair._replace(a=1), suite.__file__, suite.test_it", []),
        ("from torch import _C", []),
    ],
)
def test_the_check_sees_every_way_to_reach_in(source, found):
    assert reaches_in(source) == found


OUR_MODULE = re.compile(rf"(pkg://)?((?:{'|'.join(ALLOWED)})(?:\.[A-Za-z_]\w*)+)(?::\w+)?")
IN_TRAINER = {path.stem for path in (ROOT / "trainer").iterdir()}


def modules_named(source: str) -> list[str]:
    """Our modules that a text in the source names, as verl, Ray and `python -m` are told them.

    Keys of verl begin with `trainer.`, too: without `pkg://` only what lies in our folder counts there.
    """
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    found = [match for text in texts if isinstance(text, str) and (match := OUR_MODULE.fullmatch(text))]
    return [
        match[2]
        for match in found
        if match[1] or not match[2].startswith("trainer.") or match[2].split(".")[1] in IN_TRAINER
    ]


def test_modules_that_are_named_in_text_are_there():
    known = {module_name(path) for name in ALLOWED for path in python_files(name)}
    named = {(name, text) for name, source in SOURCES.items() for text in modules_named(source)}
    assert {(name, text) for name, text in named if not {text, text.rpartition(".")[0]} & known} == set()
    assert {"trainer.within.token_rows", "trainer.engine.registered", "teachers.rewards"} <= {
        text for _, text in named
    }


def test_every_package_of_the_repository_is_known():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == ALLOWED.keys() | NOT_SHIPPED


def test_every_folder_with_python_is_a_package():
    missing = {str(path.parent) for path in ALL_FILES if not (path.parent / "__init__.py").is_file()}
    assert missing == set()


def test_every_package_is_installed():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(p.parent.relative_to(ROOT).parts) for name in ALLOWED for p in python_files(name)}
    assert set(listed) == folders


def test_common_configs_and_routing_import_no_torch():
    light = ("common", "configs", "routing")
    modules = ", ".join(module_name(path) for package in light for path in python_files(package))
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'vllm', 'verl', 'ray', 'numpy'}"
    code = f"import sys, {modules}; print(sorted({heavy} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines"


YAMLS = sorted(ROOT.glob("configs/**/*.yaml"))


def test_every_shipped_yaml_is_a_known_kind():
    known = {"runs", "domains", "hardware"}
    assert [str(path) for path in YAMLS if path.parent.name not in known] == []


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_yaml_parses(path):
    from configs.load import load_config
    from configs.schema import Domain, Hardware

    if path.parent.name == "runs":
        load_config(path)
        return
    model = {"domains": Domain, "hardware": Hardware}[path.parent.name]
    model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_quickstart_is_shipped():
    """An ignore pattern once hid the folder: what `make quickstart` names must be tracked."""
    shipped = ROOT / "configs" / "runs" / "quickstart.yaml"
    assert shipped.is_file()
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", str(shipped)], capture_output=True)
    assert ignored.returncode != 0, "git ignores it"
