"""docs/your_own_domains.md: its commands run as they stand, up to the merge, and print what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from merging.cli import init as cli_init
from tests.helpers.cli_runner import ROOT, protege

PAGE = (ROOT / "docs" / "your_own_domains.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", PAGE, flags=re.DOTALL | re.MULTILINE)
"""The commands of each block, and what they print where the page shows it."""


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A working folder that looks like the repository's."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def test_the_walk_through_runs_up_to_the_merge(repository):
    run = []
    for block, printed in BLOCKS:
        for program, *arguments in commands(block):
            assert program == "protege"
            result = protege(*arguments)
            refused = printed.startswith("error: ")
            assert result.code == (2 if refused else 0), result.err
            run.append(arguments[0])
        shown = (result.err if refused else result.out) if printed else ""
        kept, cut, _ = printed.partition("[...]")
        assert shown.startswith(kept) and (cut or shown == printed)
    assert run == ["init", "check", "route", "plan", "check"]
    assert sorted(path.name for path in (repository / "my-merge").iterdir()) == [
        "math.heldout.jsonl", "math.train.jsonl", "merge.yaml", "protege.schema.json",
    ]  # fmt: skip


def test_the_page_lists_every_flag():
    listed = {
        flag
        for row in PAGE.splitlines()
        if row.startswith("| `--")
        for flag in re.findall(r"`--([a-z-]+)", row)
    }
    declared = {name.replace("_", "-") for name in cli_init.init.__annotations__} - {"folder", "return"}
    assert listed == declared


def test_the_readme_points_here():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/your_own_domains.md" in readme and "| `protege init DIR` |" in readme
