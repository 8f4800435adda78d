"""File locks: what one process holds at a time, such as a run folder.

The kernel frees a lock however its process ends, `kill -9` included. The lock's file stays; it holds the last
holder's text, which serves messages only.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from common.errors import ConfigError

LOCK_NAME = ".lock"

COMMAND_CHARACTERS = 200
"""Most of a command that others are told."""

_held: set[Path] = set()
"""Run folders that this process has locked."""


def this_process() -> str:
    """This process, for those who wait for it: its id, its command, and since when it holds the lock."""
    return f"pid {os.getpid()}, {command()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def command() -> str:
    """This process's command, as it was typed but for the folder of the program."""
    text = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return text if len(text) <= COMMAND_CHARACTERS else f"{text[: COMMAND_CHARACTERS - 3]}..."


@contextmanager
def lock(
    path: Path, holder: str, on_held: Callable[[str], object], *, for_all_users: bool = False
) -> Iterator[None]:
    """Holds the lock of this file as long as the block lasts.

    `holder` tells others who holds it. Where another call holds it, in this process or another, `on_held`
    gets that one's text: it raises to refuse, or returns to wait. With `for_all_users` others may take the
    lock whatever the umask, and where its file may not be opened there is no lock; else that raises OSError.
    """

    def write_holder(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # of a full disk: the lock holds without its text
            os.pwrite(descriptor, holder.encode(), 0)

    ours = FileLock(
        path,
        mode=0o666 if for_all_users else -1,  # -1: as the umask has it
        thread_local=False,  # whichever thread ends the block
        fallback_to_soft=False,  # a soft lock outlives a process that is killed
        on_acquired=write_holder,
    )
    try:
        ours.acquire(blocking=False)
    except Timeout:
        on_held(path.read_text(encoding="utf-8", errors="replace"))
        ours.acquire()
    except OSError:
        if not for_all_users:
            raise
    try:
        yield
    finally:
        ours.release()


class RunLock:
    """Context manager that holds a run folder for this process.

    Raises ConfigError, which names the holder's process id and start time, if a live run holds the folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir).absolute()
        self._lock = ExitStack()

    def __enter__(self) -> RunLock:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        holder = json.dumps({"pid": os.getpid(), "started": round(time.time()), "command": command()})
        self._lock.enter_context(lock(self.run_dir / LOCK_NAME, holder, self._refuse))
        _held.add(self.run_dir)
        return self

    def __exit__(self, *_exc: object) -> None:
        _held.discard(self.run_dir)
        self._lock.close()

    def _refuse(self, holder: str) -> None:
        raise _in_use(self.run_dir, holder)


def check_free(run_dir: Path) -> None:
    """Raise ConfigError if another live process holds the run folder; changes nothing on disk."""
    run_dir = Path(run_dir).absolute()
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run folder {run_dir}: is a file")
    if run_dir in _held or not (run_dir / LOCK_NAME).exists():
        return
    with (run_dir / LOCK_NAME).open("r", encoding="utf-8") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            raise _in_use(run_dir, file.read())


def _in_use(run_dir: Path, holder: str) -> ConfigError:
    live = f"in use by a live run{_run_of(holder)}"
    return ConfigError(f"run folder {run_dir}: {live}; wait for it, or choose another --run-dir")


def _run_of(holder: str) -> str:
    try:
        record = json.loads(holder)
    except ValueError:
        return ""  # the holder is writing it at this moment
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["started"]))
    told = f", {record['command']}" if "command" in record else ""
    return f" (process {record['pid']}, started {started}{told})"
