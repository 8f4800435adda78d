"""`--may-skip`: what is skipped on a machine that has everything counts as failed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

TESTS = {
    "test_some.py": """
import pytest

@pytest.fixture
def absent():
    pytest.skip("no such model")

def test_of_a_fixture(absent): pass

def test_of_its_own(): pytest.skip("no such file")

@pytest.mark.gpu
def test_on_a_gpu(): pytest.skip("no CUDA device")

@pytest.mark.xfail
def test_that_fails(): assert False

def test_that_runs(): pass
""",
    "test_module.py": "import pytest\npytest.importorskip('no_such_package')\n\ndef test_it(): pass\n",
    "test_marked_module.py": """
import pytest
pytestmark = [pytest.mark.browser, pytest.mark.skipif(True, reason="no chromium")]

def test_in_a_browser(): pass
""",
}


@pytest.mark.parametrize(
    ("options", "code", "counts"),
    [
        ([], 0, {"passed": 1, "skipped": 5, "xfailed": 1}),
        (
            ["--may-skip", "gpu,browser"],
            1,
            {"passed": 1, "skipped": 2, "xfailed": 1, "failed": 1, "errors": 2},
        ),
        (["--may-skip", "gpu"], 1, {"passed": 1, "skipped": 1, "xfailed": 1, "failed": 1, "errors": 3}),
    ],
)
def test_only_what_is_marked_may_be_skipped(tmp_path, options, code, counts):
    for name, text in TESTS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: x\n    browser: x\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:asyncio",
         "--continue-on-collection-errors", str(tmp_path), *options],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    closing = ended.stdout.splitlines()[-1]
    assert {what: int(n) for n, what in re.findall(r"(\d+) (\w+)", closing.partition(" in ")[0])} == counts
    assert ended.returncode == code
    for reason in ("no such model", "no such file", "no_such_package"):
        assert ended.stdout.count(reason) >= ("--may-skip" in options)
