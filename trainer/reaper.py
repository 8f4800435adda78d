"""Ends every process of a run when the run's own process is gone, however it went.

Run as a script: it waits until the pipe on its standard input closes, which the kernel does even after
`kill -9`, then ends all processes that carry the run's mark in their environment, and their descendants.
Ray's workers and vLLM's engines inherit the mark, wherever in the process tree they end up; but a process
that gives itself a title (Ray's agents, vLLM's engine) writes over its environment, and is known by its
parent alone. That parent may be gone at once (the kernel kills Ray's raylet with the run's process), so
descendants are looked up all the time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

MARK = "PROTEGE_RUN_MARK"
"""Environment variable that every process of a run inherits."""

LOOK_SECONDS = 2.0
"""Between two looks at the run's processes; a look reads some files of /proc."""


class Process(NamedTuple):
    """A process, told from a later one with the same id."""

    pid: int
    started: str
    """Clock ticks since the machine's start, as /proc has them."""


def start(mark: str) -> subprocess.Popen:
    """Starts the reaper for processes marked `mark`; it lives in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-I", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != MARK},
    )


def marked_processes(mark: str) -> list[int]:
    """Process ids whose environment holds the mark, without this process."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
            if needle in file.read().split(b"\0"):
                found.append(int(entry))
    return found


def processes_of(mark: str) -> frozenset[Process]:
    """The marked processes and all that descend from them, without this process."""
    table = _process_table()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found, to_visit = set(), marked_processes(mark)
    while to_visit:
        pid = to_visit.pop()
        if pid in table and pid != os.getpid() and (process := Process(pid, table[pid][1])) not in found:
            found.add(process)
            to_visit += children.get(pid, ())
    return frozenset(found)


def end_marked(
    mark: str,
    spare: frozenset[int] = frozenset(),
    known: frozenset[Process] = frozenset(),
    patience_seconds: float = 5.0,
) -> list[int]:
    """Asks every process of the run to end, then kills what is left; returns the process ids it found.

    `known` are processes of the run as `processes_of` found them earlier: once its parent has ended, nothing
    ties a descendant without a mark to the run.
    """
    found = {process for process in {*known, *processes_of(mark)} if process.pid not in spare}
    found = left = _alive(found)
    for process in found:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while left:
        time.sleep(0.1)
        found |= {process for process in processes_of(mark) if process.pid not in spare}
        left = _alive(found)
        if time.monotonic() > deadline:
            for process in left:
                _signal(process, signal.SIGKILL)
    return [process.pid for process in found]


def _alive(processes: Iterable[Process]) -> set[Process]:
    table = _process_table()
    return {process for process in processes if table.get(process.pid, (0, ""))[1] == process.started}


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(process.pid, number)


def _process_table() -> dict[int, tuple[int, str]]:
    """Parent and start time by process id, of all processes that have not ended."""
    table = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="utf-8") as file:
            # the second field is the program's name in parentheses, which may hold anything
            state, parent, *rest = file.read().rpartition(")")[2].split()
            if state not in "ZX":
                table[int(entry)] = (int(parent), rest[17])
    return table


def _watch(mark: str) -> frozenset[Process]:
    """Waits for the end of the pipe on standard input; returns the run's processes as seen just before."""
    known: frozenset[Process] = frozenset()
    while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:  # nobody writes: readable is closed
        known = frozenset(_alive(known | processes_of(mark)))
    return known


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_marked(sys.argv[1], known=_watch(sys.argv[1]))
