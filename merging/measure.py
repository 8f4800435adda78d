"""Wall time by stage and peak memory of a run, kept in its folder over interruptions."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from trainer.files import write_json

FILE = "measured.json"
SAMPLE_SECONDS = 10.0
"""Between two samples: counting shared pages once stops each process for a moment."""


class Measured:
    """`wall_seconds` by stage and `peak_memory_bytes` of this run's processes together."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / FILE
        stored = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.wall_seconds: dict[str, float] = stored.get("wall_seconds", {})
        self.peak_memory_bytes: int = stored.get("peak_memory_bytes", 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the block's time to the stage's, also when the block fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.wall_seconds[name] = round(self.wall_seconds.get(name, 0.0) + time.monotonic() - began, 2)
            self._store()

    @contextmanager
    def watching_memory(self) -> Iterator[None]:
        """Samples the memory of this process and all below it while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._store()

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_SECONDS):
            self.peak_memory_bytes = max(self.peak_memory_bytes, memory_of_tree())

    def _store(self) -> None:
        values = {"wall_seconds": self.wall_seconds, "peak_memory_bytes": self.peak_memory_bytes}
        write_json(self.path, values)


def memory_of_tree() -> int:
    """Bytes of main memory of this process and its descendants; shared pages count once (PSS)."""
    root = psutil.Process(os.getpid())
    return sum(_proportional_bytes(process.pid) for process in [root, *root.children(recursive=True)])


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
