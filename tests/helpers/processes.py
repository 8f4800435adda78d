"""Watching a real run from outside: its processes, and what it leaves behind."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from trainer.processes.reaper import MARK

STARTED: list[subprocess.Popen] = []
"""Commands that this process's tests have started; `end_started` ends those that still run."""


def protege(*arguments: str, home: Path, log: Path) -> subprocess.Popen:
    """Starts the real command in a folder of its own, with a registry of its own."""
    command = [str(Path(sys.executable).with_name("protege")), *arguments]
    environment = {**os.environ, "PROTEGE_HOME": str(home), "TERM": "dumb"}
    process = subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    STARTED.append(process)
    return process


def end_started() -> None:
    """Ends what a failed test left: the next run would wait for it, and fail too."""
    while STARTED:
        _end(STARTED.pop())


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def hear_interrupts() -> None:
    """A shell lets its background jobs ignore Ctrl-C; the tests may be one, what they start is not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_to_end(*arguments: str, home: Path, log: Path, timeout: float) -> int:
    """The exit code of the real command."""
    return ended(protege(*arguments, home=home, log=log), timeout, log)


def ended(process: subprocess.Popen, seconds: float, log: Path) -> int:
    """The exit code; fails with the log's end, and ends the process, if it does not come in time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        parts = [_title(child) for child in psutil.Process(process.pid).children(recursive=True)]
        tail = "\n".join(log.read_text().splitlines()[-20:])
        raise AssertionError(f"not ended within {seconds} s; below it: {parts}; its log:\n{tail}") from None
    finally:
        _end(process)


def wait_for(condition: Callable[[], bool], seconds: float, process: subprocess.Popen, log: Path) -> None:
    """Waits until the condition holds while the process lives; fails with the log's end otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        tail = "\n".join(log.read_text().splitlines()[-20:])
        assert process.poll() is None, f"the run ended with {process.returncode}:\n{tail}"
        assert time.monotonic() < deadline, f"not within {seconds} s:\n{tail}"
        time.sleep(0.2)


def marked(home: Path) -> set[int]:
    """Live processes of runs that were started with this registry: by their mark, or, since a process that
    gave itself a title may have lost it, by their working folder."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            ours = MARK in environment and environment.get("PROTEGE_HOME") == str(home)
            ours = ours or process.cwd() == str(home)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def left_behind(home: Path, seconds: float = 20.0) -> list[str]:
    """What still runs of the runs with this registry once the time is over; empty as soon as all is gone."""
    deadline = time.monotonic() + seconds
    while left := marked(home):
        if time.monotonic() > deadline:
            return [_told(pid) for pid in left]
        time.sleep(0.2)
    return []


FILES = (
    "/tmp/protege-*",
    "/tmp/ray/session_2*",
    "/tmp/rl-colocate-*",
    "/tmp/vllm_dist_*",
    "/tmp/????????-????-????-????-????????????",
    "/dev/shm/*",
)
"""What runs, and the libraries in them, make in these folders."""


def run_files() -> set[str]:
    """What runs have made in /tmp and /dev/shm, without locks, which stay, and the sandboxes of answers."""
    found = {path for pattern in FILES for path in glob.glob(pattern)}
    return {path for path in found if not path.endswith(".lock") and "-sandbox-" not in path}


def files_left(before: set[str], seconds: float = 20.0) -> list[str]:
    """What is there beside these once the time is over; empty as soon as there is nothing."""
    deadline = time.monotonic() + seconds
    while (left := run_files() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return sorted(left)


def _told(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} (parent {process.ppid()}, {process.status()}): {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{pid} (gone since)"


def kill_hard(process: subprocess.Popen) -> None:
    """kill -9 of the command itself, as a user or the kernel would."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


def descendant(process: subprocess.Popen, title: str) -> psutil.Process:
    """The one process below the command whose title begins like this."""
    found = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if _title(child).startswith(title)
    ]
    assert len(found) == 1, f"{len(found)} processes are titled {title}"
    return found[0]


def children_that_run(module: str) -> list[int]:
    """Process ids of this process's own children whose command names the module."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and module in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def steps_in(file: Path) -> int:
    """Steps in a `metrics.jsonl`."""
    return len([json.loads(line) for line in file.read_text().splitlines()]) if file.exists() else 0
