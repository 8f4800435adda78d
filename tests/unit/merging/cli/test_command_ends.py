"""How the real command ends when it is interrupted, killed, or finds its disk full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from merging.cli.main import FAILED, INTERRUPTED, TERMINATED
from tests.helpers.cli_runner import ROOT, protege
from tests.helpers.messages import says
from tests.helpers.processes import hear_interrupts
from tests.helpers.tiny_model import config_dict, write_config
from trainer.processes import private, reaper

STAND_IN = """
import sys, types
import merging.cli.main as cli
cli.load, cli.run_folder = (lambda *_: None), (lambda *_: None)
work = types.ModuleType("merging.run")
exec(sys.argv.pop(1), work.__dict__)
sys.modules["merging.run"] = work
cli.main()
"""
"""The real command with other work: what its first argument says `merge` is."""

TIDY = """
import subprocess, sys, tempfile, time
def merge(*_):
    tempfile.mkstemp()
    below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        print(below.pid, flush=True)
        time.sleep(60)
    finally:
        time.sleep(1)
        print("tidied up", flush=True)
"""

ANEW = """
import time
def merge(*_):
    print(1, flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("as Ray does") from None
"""
"""A library that raises another exception in place of the signal's."""

GRADES = """
import time
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
def merge(*_):
    pool.submit(time.sleep, 60)
    print(1, flush=True)
    time.sleep(60)
"""
"""A thread that is not done when the command is interrupted."""

WAITS = """
import os, sys
from pathlib import Path
from common.locks import lock
from trainer.processes.machine_lock import machine_lock
def merge(*_):
    folder = Path(os.environ["LOCKS"])
    def told(line):
        print(line, flush=True)
    with machine_lock("/runs/a", ["cpu"], told, folder):
        print("held", flush=True)
        import time; time.sleep(60)
"""


def start(work: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in (reaper.MARK, private.USUAL)}
    environment |= {"TMPDIR": str(folder), "LOCKS": str(folder.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STAND_IN, work, "merge", "config.yaml", *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def all_gone(folder: Path, pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not list(folder.iterdir()) and not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "signals, code",
    [
        ([signal.SIGTERM], TERMINATED),
        ([signal.SIGINT], INTERRUPTED),
        ([signal.SIGTERM, signal.SIGTERM], TERMINATED),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGINT], INTERRUPTED),
    ],
)
def test_an_interrupted_command_tidies_up_and_says_how_to_go_on(temporary, signals, code):
    process = start(TIDY, temporary)
    below = int(process.stdout.readline())
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code and out == "tidied up\n"
    assert err == "interrupted; the same command continues the run where it stopped\n"
    assert all_gone(temporary, below)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)])
def test_the_exit_code_is_the_signals_whatever_a_library_makes_of_it(temporary, number, code):
    process = start(ANEW, temporary)
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == code


def test_a_killed_command_leaves_nothing(temporary):
    process = start(TIDY, temporary)
    below = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=20)
    assert all_gone(temporary, below)


def test_an_interrupted_command_does_not_wait_for_its_threads(temporary):
    process = start(GRADES, temporary)
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == TERMINATED and time.monotonic() - began < 5


def test_a_command_that_waits_says_for_whom_and_may_be_interrupted(temporary):
    first = start(WAITS, temporary, "--set", "a=b c")
    assert first.stdout.readline() == "held\n"
    second = start(WAITS, temporary)
    line = second.stdout.readline()
    says(line, f"pid {first.pid},", "merge config.yaml --set 'a=b c'", "since", "/runs/a", "CPU")
    second.send_signal(signal.SIGTERM)
    assert "interrupted" in second.communicate(timeout=20)[1] and second.returncode == TERMINATED
    first.kill()
    first.communicate()


# -------------------------------------------------------------------------------------- a full disk


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_one_message_and_exit_code_1(tmp_path, monkeypatch, named):
    target = str(tmp_path / "runs" / "metrics.jsonl")

    def merge(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", *([target] if named else []))
        finally:
            raise RuntimeError("a later error")

    monkeypatch.setattr("merging.run.merge", merge)
    result = protege("merge", write_config(tmp_path, config_dict(tmp_path)))
    assert result.code == FAILED
    (line,) = result.errors
    says(line, "no space left on device", "same command continues", *([target, "free"] if named else []))


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(("command", "code"), [("report", 2), ("merge", 1)])
def test_what_cannot_be_reached_is_one_message(tmp_path, monkeypatch, command, code):
    """A folder that may not be entered; a run that has begun has failed, any other command is refused."""

    def work(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/closed/a\x1b")

    monkeypatch.setattr("merging.run.merge", work)
    monkeypatch.setattr("merging.run.report_run", work)
    config = write_config(tmp_path, config_dict(tmp_path))
    given = config if command == "merge" else tmp_path
    result = protege(command, given)
    assert result.code == code
    assert result.errors == ["error: /closed/a\\x1b: cannot be reached: Permission denied"]


@pytest.mark.parametrize(
    ("ends", "code"), [("pass", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('why')", 1)]
)
def test_a_command_that_has_loaded_torch_ends_at_once_and_whole(ends, code):
    """As the stand-in for torch cannot be taken apart, the end would fail if it were tried."""
    work = f"""
import atexit, sys
class Torch:
    def __del__(self, end=sys.stderr.write):
        end("taken apart")
def merge(*_):
    sys.modules["torch"] = Torch()
    atexit.register(print, "at exit")
    print("worked", end=" ")
    {ends}
"""
    ended = subprocess.run(
        [sys.executable, "-c", STAND_IN, work, "merge", "none.yaml"],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (code, "worked at exit\n")
    assert ("taken apart" in ended.stderr) == ("why" in ends)
