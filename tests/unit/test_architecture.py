"""The shape of the code: who may import whom, what stays light, how long a file gets."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "configs": set(),
    "trainer": {"configs"},
    "routing": {"configs"},
    "eval": {"configs"},
    "teachers": {"configs", "trainer", "routing", "eval"},
    "merging": {"configs", "trainer", "routing", "eval", "teachers"},
}
"""What each package may import of the others, also inside functions."""

NOT_SHIPPED = {"tests", "benchmarks"}
MAX_LINES = 400


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
        "import merging.cli\ndef f():\n    from trainer import job\n    import eval.records as r\n"
        "from . import x\n"
    )
    assert violations("routing", source) == [
        "line 1: merging.cli",
        "line 5: .",
        "line 3: trainer",
        "line 4: eval.records",
    ]
    assert violations("merging", "import teachers.scorer, json\nimport trainer.job\n") == []


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


def test_configs_and_routing_import_no_torch():
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in python_files("configs")]
    names += [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in python_files("routing")]
    modules = ", ".join(name.removesuffix(".__init__") for name in names)
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
