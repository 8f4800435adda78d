"""Ends every process of a run when the run's own process is gone, however it went.

Run as a script: it waits until the pipe on its standard input closes, which the kernel does even after
`kill -9`, then ends all processes that carry the run's mark in their environment, and their descendants.
Ray's workers and vLLM's engines inherit the mark, wherever in the process tree they end up; but a process
that gives itself a title (Ray's agents, vLLM's engine) writes over its environment, and is known by its
parent alone. That parent may be gone at once (the kernel kills Ray's raylet with the run's process), so
descendants are looked up all the time.

Then it removes what the run has left in the file system: the folder of its temporary files, sockets and Ray's
session; shared memory that its processes were seen to have open; and what they have noted as the run's
(`note`), because it lies elsewhere, like verl's blocks and sockets. Nothing is removed that a live process
has open, or that may be another run's.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Set
from typing import NamedTuple

MARK = "PROTEGE_RUN_MARK"
"""Environment variable that every process of a run inherits."""

DETACHED = "--detached"

SHARED_MEMORY = "/dev/shm/"

NOTED = "noted"
"""File in the run's folder with the paths of what its processes make elsewhere, one a line; they may be
patterns. Who makes one has it open until it removes it, so one that nobody has open is left of a process that
was killed."""

LOOK_SECONDS = 2.0
"""Between two looks at the run's processes; a look reads some files of /proc."""


class Process(NamedTuple):
    """A process, told from a later one with the same id."""

    pid: int
    started: str
    """Clock ticks since the machine's start, as /proc has them."""


def start(mark: str, folder: str | os.PathLike[str], detached: bool = False) -> subprocess.Popen:
    """Starts the reaper for processes marked `mark`; it lives in a session of its own.

    `folder` is removed at the end. A detached reaper is no child of this process either: a worker of Ray
    kills its children when it ends.
    """
    return subprocess.Popen(
        [sys.executable, "-I", __file__, mark, os.fspath(folder), *([DETACHED] if detached else [])],
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
    found = left = alive(found)
    for process in found:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while left:
        time.sleep(0.1)
        found |= {process for process in processes_of(mark) if process.pid not in spare}
        left = alive(found)
        if time.monotonic() > deadline:
            for process in left:
                _signal(process, signal.SIGKILL)
    return [process.pid for process in found]


def alive(processes: Iterable[Process]) -> set[Process]:
    """Those of the processes that have not ended."""
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


def _watch(mark: str) -> tuple[frozenset[Process], frozenset[str]]:
    """Waits for the end of the pipe on standard input; returns the run's processes as seen just before, and
    all blocks of shared memory that they were seen to have open."""
    known: frozenset[Process] = frozenset()
    blocks: set[str] = set()
    looked_at: set[str] = set()
    while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:  # nobody writes: readable is closed
        known = frozenset(alive(known | processes_of(mark)))
        if new := set(glob.glob(f"{SHARED_MEMORY}*")) - looked_at:
            blocks |= _held(new, (process.pid for process in known))
            looked_at |= new
    return known, frozenset(blocks)


def note(folder: str | os.PathLike[str], pattern: str) -> None:
    """Says, before the first is made, that files of this pattern outside of the folder are the run's."""
    with contextlib.suppress(OSError), open(os.path.join(folder, NOTED), "a", encoding="utf-8") as file:
        file.write(f"{pattern}\n")


def remove_files(folder: str, blocks: frozenset[str] = frozenset()) -> None:
    """Removes the folder and, where no process has them open, what was noted in it and these blocks of
    shared memory."""
    noted = _noted(folder)
    shutil.rmtree(folder, ignore_errors=True)
    # the list comes before the look at who has them open: what appears in between is let alone
    files = {path for pattern in noted for path in glob.glob(pattern) if _is_own(path)} | blocks
    if files:
        for path in files - _held(files, filter(str.isdigit, os.listdir("/proc"))) - _bound_sockets():
            with contextlib.suppress(OSError):
                os.unlink(path)


def _noted(folder: str) -> list[str]:
    with contextlib.suppress(OSError), open(os.path.join(folder, NOTED), encoding="utf-8") as file:
        return [line[:-1] for line in file if line.endswith("\n")]
    return []


def _is_own(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_uid == os.getuid()
    return False


def _held(paths: Set[str], pids: Iterable[int | str]) -> set[str]:
    """Those of the paths that these processes have open or mapped.

    The mapping of a semaphore bears the name of a temporary file, which it was made as: its inode tells.
    """
    numbers = {_inode(path): path for path in paths}
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as file:
            for line in file:
                if SHARED_MEMORY in line:
                    *_, inode, path = line.split(maxsplit=5)
                    found |= {path.strip(), numbers.get(int(inode), "")}
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found & paths


def _inode(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_ino if path.startswith(SHARED_MEMORY) else 0
    return 0


def _bound_sockets() -> set[str]:
    """Paths of the sockets that live processes have bound."""
    with open("/proc/net/unix", errors="replace") as file:
        rows = [line.split(maxsplit=7) for line in file]
    return {row[7].strip() for row in rows if len(row) == 8}


def main() -> None:
    """Waits for the end of the run's process, ends what is left of the run, and removes its files."""
    mark, folder = sys.argv[1], sys.argv[2]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a batch system asks every process to end
        signal.signal(number, signal.SIG_IGN)
    if DETACHED in sys.argv and os.fork():
        os._exit(0)
    known, blocks = _watch(mark)
    end_marked(mark, known=known)
    remove_files(folder, blocks)


if __name__ == "__main__":
    main()
