"""Notices a dead or failed part of a run.

verl waits for a rollout that never comes when its engine is gone, and for a weight update that an engine
has refused. So the launcher watches the processes themselves, and what the engines write.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from trainer.processes.logs import ALL_JOBS, worker_logs

GRACE_SECONDS = 8.0
"""How long a vanished part, or an engine's error, may be followed by the run's own end before it counts:
verl's last step ends its actors before it returns, and the trainer's own message is the better one."""

SETTLED_SECONDS = {"VLLM::": 1.0, "ray::": 4.0}
"""Age that a part must have been seen with for its end to count, by its title's beginning. A child between
fork and exec carries an engine's title for less than a second; the engine of a small model may serve its
second step, and die, within 4 s of its start."""

IDLE_TITLES = ("ray::IDLE", "ray::SPILL", "ray::RESTORE")

ENGINE_ERROR = re.compile(r"\((?:EngineCore|Worker)[^)]*\) ERROR .*?\] ([\w.]*(?:Error|Exception)\b.*)")


@dataclass
class PartsWatch:
    """Tracks the parts of a run by process id and title; `dead()` names one that vanished.

    A part counts once it was seen at an age of `SETTLED_SECONDS`: helpers that a part forks carry its title
    for a moment, and a part that fails at its start is reported by Ray itself. Its age and not the time
    since the first look: looks may be seconds apart.
    """

    source: Callable[[], dict[int, tuple[str, float]]] | None = None
    """Where the live parts come from; by default they are those below this process."""
    seen: dict[int, str] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    missed: dict[int, float] = field(default_factory=dict)
    earlier: frozenset[int] = frozenset()
    """Parts that do not count: those of an earlier training may still be ending."""

    @classmethod
    def from_now(cls, source: Callable[[], dict[int, tuple[str, float]]] | None = None) -> PartsWatch:
        """A watch over a training that is not launched yet: what is alive now is no part of it."""
        return cls(source, earlier=frozenset(live_parts() if source is None else source()))

    def dead(self) -> str | None:
        """Title and pid of a part that has been missed for `GRACE_SECONDS`, else None."""
        now = time.monotonic()
        alive = live_parts() if self.source is None else self.source()
        for pid, (title, age) in alive.items():
            if pid in self.earlier:
                continue
            self.seen[pid] = title
            self.missed.pop(pid, None)
            if age >= _settled_at(title):
                self.settled.add(pid)
        for pid in self.seen.keys() - alive.keys():
            self.missed.setdefault(pid, now)
        for pid, since in self.missed.items():
            if pid in self.settled and now - since >= GRACE_SECONDS:
                return f"{self.seen[pid]} (pid {pid})"
        return None


def _settled_at(title: str) -> float:
    return next(seconds for start, seconds in SETTLED_SECONDS.items() if title.startswith(start))


def live_parts() -> dict[int, tuple[str, float]]:
    """The parts below this process."""
    return parts_among(below_this_process())


def below_this_process() -> list[psutil.Process]:
    """All descendants of this process."""
    return psutil.Process().children(recursive=True)


def parts_among(processes: Iterable[psutil.Process]) -> dict[int, tuple[str, float]]:
    """Process id to title and age in seconds of every live Ray actor and vLLM engine among the processes.

    A child between fork and exec carries its parent's title for a moment; it is no part of its own.
    """
    found: dict[int, tuple[str, float]] = {}
    parents: dict[int, int] = {}
    for process in processes:
        try:
            title = " ".join(process.cmdline()[:1])
            if is_part(title) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = (title.split(".")[0], _age(process))
                parents[process.pid] = process.ppid()
        except psutil.Error:
            continue
    titles = {pid: title for pid, (title, _) in found.items()}
    return {pid: part for pid, part in found.items() if titles.get(parents[pid]) != part[0]}


def _age(process: psutil.Process) -> float:
    """Seconds since the process began, by the kernel's clock: the wall clock may have been set since."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (process.create_time() - psutil.boot_time())


def is_part(title: str) -> bool:
    """A Ray actor is titled `ray::ClassName`, a task `ray::function_name`; engines `VLLM::...`."""
    if title.startswith(("VLLM::", "ray::vLLM")):
        return True
    return title.startswith("ray::") and not title.startswith(IDLE_TITLES) and title[5:6].isupper()


@dataclass
class EngineErrors:
    """Follows the logs of a job's workers for errors that a vLLM engine reports without ending."""

    logs: Path
    job: str = ALL_JOBS
    offsets: dict[int, int] = field(default_factory=dict)
    """How far each file was read, in bytes, by its inode: Ray renames a worker's log when it gets a job."""
    found: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        for file in worker_logs(self.logs, self.job):
            with suppress(FileNotFoundError):
                status = file.stat()
                self.offsets[status.st_ino] = status.st_size

    def first(self) -> str | None:
        """The first engine error that was logged since this follower was made; None where there is none."""
        if self.found is None:
            self._read()
        return None if self.found is None else self.found[0]

    def lasting(self) -> str | None:
        """The first engine error, once it is `GRACE_SECONDS` old; None before and where there is none."""
        self.first()
        if self.found is not None and time.monotonic() - self.found[1] >= GRACE_SECONDS:
            return self.found[0]
        return None

    def _read(self) -> None:
        for file in worker_logs(self.logs, self.job):
            text = self._written(file)
            match = ENGINE_ERROR.search(text.decode("utf-8", errors="replace"))
            if match and self.found is None:
                self.found = (match.group(1), time.monotonic())

    def _written(self, file: Path) -> bytes:
        """Whole lines that came to the file since it was read last; none where it is gone."""
        try:
            stream = file.open("rb")
        except FileNotFoundError:
            return b""
        with stream:
            inode = os.fstat(stream.fileno()).st_ino
            start = self.offsets.get(inode, 0)
            stream.seek(start)
            text = stream.read()
        text = text[: text.rfind(b"\n") + 1]  # a line that is still being written is read whole later
        self.offsets[inode] = start + len(text)
        return text
