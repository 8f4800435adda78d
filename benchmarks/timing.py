"""What benchmarks count in: seconds, processor seconds of a tree of processes, and ratios with spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Spread:
    """Some measurements of one thing: their median, lowest and highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """Such as `1.52 (1.47 to 1.60)`."""
        return f"{self.median:.{digits}f} ({self.lowest:.{digits}f} to {self.highest:.{digits}f})"


@dataclass(frozen=True)
class Cost:
    """Seconds that something took, and the processor time of this process and its descendants in it."""

    seconds: float
    cpu_seconds: float


def timed(work: Callable[[], object]) -> Cost:
    """What one call costs."""
    cpu, began = cpu_of_tree(), time.perf_counter()
    work()
    return Cost(time.perf_counter() - began, cpu_of_tree() - cpu)


def cpu_of_tree() -> float:
    """Processor seconds so far of this process and of all below it, those that have ended included."""
    root, total = psutil.Process(), 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def in_turns(
    ours: Callable[[], object], baseline: Callable[[], object], rounds: int
) -> list[tuple[Cost, Cost]]:
    """(ours, baseline) of each round. They take turns in going first: a machine that becomes slower or faster
    meanwhile favours neither."""
    found = []
    for number in range(rounds):
        if number % 2:
            other = timed(baseline)
            found.append((timed(ours), other))
        else:
            own = timed(ours)
            found.append((own, timed(baseline)))
    return found


def ratios(pairs: Sequence[tuple[float, float]]) -> Spread:
    """First by second of each pair."""
    return Spread.of([first / second for first, second in pairs])


def cpu_by_process() -> dict[str, float]:
    """Processor seconds so far of this process's descendants, by what the process calls itself."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            name, times = _title(process), process.cpu_times()
        except psutil.Error:
            continue
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def _title(process: psutil.Process) -> str:
    words = process.cmdline()
    return words[0].split("/")[-1].split(" ")[0].split(".")[0] if words and words[0] else process.name()
