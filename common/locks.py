"""File locks: what one process holds at a time, such as a run folder.

The kernel frees a lock however its process ends, `kill -9` included. The lock's file stays; it holds the last
holder's text, which serves messages only.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NotRequired

from filelock import FileLock, Timeout, lock_descriptor
from typing_extensions import TypedDict

from common.disk import is_full
from common.errors import ConfigError
from common.reading import opened, read_text, typed_json

LOCK_NAME = ".lock"

COMMAND_CHARACTERS = 200
"""Most of a command that others are told."""

LONGEST_HOLDER = 4096
"""Bytes of a holder's text; a longer one is no holder's."""

LATEST = 2**33
"""Seconds since the epoch that a run may say it started, in the year 2242: later ones are no time."""

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
    lock whatever the umask, and where its file may not be opened there is no lock; else that raises
    ConfigError, and OSError of a full disk.
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
        _refuse_other_kinds(path)
        ours.acquire(blocking=False)
    except Timeout:
        on_held(_holder_of(path))
        ours.acquire()
    except OSError as error:
        if not for_all_users:
            raise _refused(path, error) from None
    try:
        yield
    finally:
        ours.release()


def _refuse_other_kinds(path: Path) -> None:
    """Raises OSError for what no process could have locked, such as a pipe, before it is written to."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "is no regular file")


def _refused(path: Path, error: OSError) -> OSError | ConfigError:
    if is_full(error):
        return error
    return ConfigError(f"{path}: cannot be locked: {error.strerror or error}; a lock is a file of its own")


def _holder_of(path: Path) -> str:
    """What the file says of who holds it, in one line; empty where it is damaged, or being written."""
    try:
        return _printable(read_text(path, "a lock", LONGEST_HOLDER))
    except ConfigError:
        return ""


def _printable(text: str) -> str:
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


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
    place = run_dir / LOCK_NAME
    if run_dir in _held or not os.path.lexists(place):
        return
    with opened(place, "the lock of a run folder") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            raise _in_use(run_dir, _holder_of(place))


def _in_use(run_dir: Path, holder: str) -> ConfigError:
    live = f"in use by a live run{_run_of(holder)}"
    return ConfigError(f"run folder {run_dir}: {live}; wait for it, or choose another --run-dir")


class _Run(TypedDict):
    """What a run says of itself in its lock."""

    pid: int
    started: float
    command: NotRequired[str]


def _run_of(holder: str) -> str:
    try:
        record = typed_json(holder, _Run, "a lock")
    except ConfigError:  # damaged, or the holder is writing it
        return ""
    if not 0 <= record["started"] < LATEST:
        return ""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["started"]))
    told = f", {_printable(record['command'])[:COMMAND_CHARACTERS]}" if "command" in record else ""
    return f" (process {record['pid']}, started {started}{told})"
