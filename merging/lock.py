"""One live run a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from configs.load import ConfigError

LOCK_NAME = ".lock"

_held: set[Path] = set()
"""Folders that this process has locked."""


class RunLock:
    """Context manager that holds a run folder for this process.

    The kernel frees the lock when the process ends in any way, `kill -9` included. The file names the
    holder's process id and start time (seconds since 1970) for messages only. Raises ConfigError if a
    live run holds the folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir).absolute()
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        assert self._file is None, "a lock is entered once"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        file = (self.run_dir / LOCK_NAME).open("a+", encoding="utf-8")
        if not _try_lock(file):
            with file:
                raise _in_use(self.run_dir, file)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "started": round(time.time())}))
        file.flush()
        self._file = file
        _held.add(self.run_dir)
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._file is not None
        _held.discard(self.run_dir)
        with contextlib.closing(self._file):
            self._file.truncate(0)
        self._file = None


def check_free(run_dir: Path) -> None:
    """Raise ConfigError if another live process holds the run folder; changes nothing on disk."""
    run_dir = Path(run_dir).absolute()
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run folder {run_dir}: is a file")
    if run_dir in _held or not (run_dir / LOCK_NAME).exists():
        return
    with (run_dir / LOCK_NAME).open("r", encoding="utf-8") as file:
        if not _try_lock(file):
            raise _in_use(run_dir, file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(run_dir: Path, file: IO[str]) -> ConfigError:
    holder = " ".join(_holder(file))
    return ConfigError(
        f"run folder {run_dir}: in use by a live run{holder}; wait for it, or choose another --run-dir"
    )


def _holder(file: IO[str]) -> Iterator[str]:
    file.seek(0)
    try:
        record = json.loads(file.read())
    except ValueError:
        return  # the holder is writing it at this moment
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["started"]))
    yield f" (process {record['pid']}, started {started})"
