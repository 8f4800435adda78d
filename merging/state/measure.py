"""Wall time by stage and peak memory of a run, kept in its folder over interruptions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field, FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict

from common.errors import ConfigError
from common.files import write_json
from common.reading import read_json

FILE = "measured.json"
SAMPLE_SECONDS = 10.0
"""Between two samples: counting shared pages once stops each process for a moment."""


class Stored(TypedDict, total=False):
    """What the file holds."""

    wall_seconds: dict[str, Annotated[FiniteFloat, Field(ge=0)]]
    peak_memory_bytes: NonNegativeInt


class Measured:
    """`wall_seconds` by stage and `peak_memory_bytes` of this run's processes together."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE
        stored: Stored = {}
        if self.path.exists():
            stored = read_json(self.path, Stored, "what a run has measured of itself")
        self.wall_seconds: dict[str, float] = stored.get("wall_seconds", {})
        self.peak_memory_bytes: int = stored.get("peak_memory_bytes", 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the block's time to the stage's, also when it fails, but not when it refuses to begin."""
        began = time.monotonic()
        with self._storing():
            try:
                yield
            finally:
                spent = self.wall_seconds.get(name, 0.0) + time.monotonic() - began
                self.wall_seconds[name] = round(spent, 2)

    @contextmanager
    def watching_memory(self) -> Iterator[None]:
        """Samples the memory of this process and all below it while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        thread.start()
        with self._storing():
            try:
                yield
            finally:
                stop.set()
                thread.join()

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_SECONDS):
            self.peak_memory_bytes = max(self.peak_memory_bytes, memory_of_tree())

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Stores all when the block ends, unless it refuses to begin; what the block fails of is told, not
        that this failed too."""
        try:
            yield
        except ConfigError:
            raise
        except BaseException:
            with suppress(OSError):
                self._store()
            raise
        self._store()

    def _store(self) -> None:
        values = {"wall_seconds": self.wall_seconds, "peak_memory_bytes": self.peak_memory_bytes}
        write_json(self.path, values)


def memory_of_tree() -> int:
    """Bytes of main memory of this process and its descendants; shared pages count once (PSS)."""
    root = psutil.Process(os.getpid())
    return sum(proportional_bytes(process.pid) for process in [root, *root.children(recursive=True)])


def proportional_bytes(pid: int) -> int:
    """A process's memory, each shared page divided by its users; 0 once the process has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
