"""A command's temporary files are in one folder of its own, which goes with it however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from trainer.processes import private, reaper
from trainer.processes.private import private_folder

COMMAND = """
import subprocess, sys, tempfile, time
from pathlib import Path
from trainer.processes.private import private_folder
with private_folder() as folder:
    (Path(tempfile.mkdtemp()) / "file").touch()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    print(child.pid, folder, flush=True)
    if sys.argv[1] == "stay":
        time.sleep(60)
"""
"""A command that leaves a temporary file and a process behind."""


def start(folder: Path, manner: str) -> tuple[subprocess.Popen[str], int, Path]:
    """The command, its child and its folder."""
    environment = {key: value for key, value in os.environ.items() if key not in (reaper.MARK, private.USUAL)}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, manner],
        cwd=ROOT, env={**environment, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child, own = process.stdout.readline().split()
    return process, int(child), Path(own)


def left(folder: Path, child: int, seconds: float = 10) -> list[object]:
    """What is there still of the command once the time is over; empty as soon as all is gone."""
    deadline = time.monotonic() + seconds
    while True:
        found = [*folder.iterdir(), *([child] if Path(f"/proc/{child}").exists() else [])]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("end", ["stay", "leave"])
def test_folder_and_processes_go_when_the_command_ends_and_when_it_is_killed(tmp_path, end):
    process, child, own = start(tmp_path, end)
    if end == "stay":
        assert own.parent == tmp_path and own.stat().st_mode & 0o777 == 0o700
        assert [path.is_dir() for path in own.iterdir()] == [True]
        process.send_signal(signal.SIGKILL)
    assert process.wait(20) == (-signal.SIGKILL if end == "stay" else 0)
    process.stdout.close()
    assert left(tmp_path, child) == []


def test_two_commands_have_a_folder_each(tmp_path):
    processes = [start(tmp_path, "stay") for _ in range(2)]
    (first, child, own), (second, _, other) = processes
    first.kill()
    first.wait()
    first.stdout.close()
    deadline = time.monotonic() + 10
    while own.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not own.exists() and other.is_dir() and second.poll() is None
    second.kill()
    second.wait()
    second.stdout.close()
    assert left(tmp_path, child) == []


def test_the_environment_is_as_before_and_compiled_code_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in (private.USUAL, "TORCHINDUCTOR_CACHE_DIR", reaper.MARK):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with private_folder() as folder:
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(folder)
        assert private.usual_folder() == tmp_path  # Ray's folder is not in it: its sockets' paths are long
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path
    assert dict(os.environ) == before and list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == str(tmp_path)
