"""A training that makes no step: when it counts as stalled, and what its parts were doing.

A part that has died is seen by `watch`. One that hangs, or waits for another that does, is alive and logs no
error: nothing tells but the time since the last step.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from configs.blocks.hardware import Stall
from trainer.processes.watch import parts_among

SAMPLE_SECONDS = 1.0
"""Over which a part's use of the processor is measured."""

BUSY_SHARE = 0.1
"""Share of a core from which on a part is called busy."""


def limit_seconds(settings: Stall, steps: Sequence[float]) -> float:
    """How long a training may go without a step.

    `steps` are the seconds from each step of this attempt to the next. The first step is none of them: it
    includes the start, and compiling.
    """
    if not steps:
        return settings.first_step_seconds
    return max(settings.at_least_seconds, settings.after * statistics.median(steps))


@dataclass
class StallWatch:
    """Follows the steps of one training; `look` says once for each stall that there is one."""

    settings: Stall
    activity: Callable[[], str]
    """What the parts of the run are doing at this moment."""
    clock: Callable[[], float] = time.monotonic
    durations: list[float] = field(default_factory=list)
    done: int = 0
    said: bool = False

    def __post_init__(self) -> None:
        self.last = self.clock()

    def look(self, done: int, factor: float = 1.0) -> str | None:
        """One line where no step came for too long; `done` is the number of steps of this attempt, and of
        its validations. What comes next may take so many times as long as a step (`factor`)."""
        waited = self.clock() - self.last
        if done > self.done:
            if self.done:
                self.durations.append(waited / (done - self.done))
            self.last, self.done, self.said = self.clock(), done, False
        elif not self.said and waited > factor * limit_seconds(self.settings, self.durations):
            self.said = True
            return f"stalled: {self._since(waited)}; {self.activity()}"
        return None

    def _since(self, waited: float) -> str:
        if not self.durations:
            return f"no step within {waited:.0f} s of {'the first' if self.done else 'the start'}"
        return f"no step for {waited:.0f} s, and one usually takes {statistics.median(self.durations):.1f} s"


def activity(processes: Iterable[psutil.Process], seconds: float = SAMPLE_SECONDS) -> str:
    """What the parts among the processes do during these seconds: `stopped`, `busy` or `idle`, with their
    numbers."""
    by_pid = {process.pid: process for process in processes}
    parts = parts_among(by_pid.values())
    before = {pid: _seconds_used(by_pid[pid]) for pid in parts}
    time.sleep(seconds)
    counts = Counter(
        (_state(by_pid[pid], (_seconds_used(by_pid[pid]) - before[pid]) / seconds), title)
        for pid, (title, _) in parts.items()
    )
    told = [
        f"{state}: {_names(counts, state)}" for state in ("stopped", "busy", "idle") if _names(counts, state)
    ]
    return "; ".join(told) or "no part of the run is there"


def _names(counts: Counter[tuple[str, str]], state: str) -> str:
    own = sorted((title, count) for (found, title), count in counts.items() if found == state)
    return ", ".join(title if count == 1 else f"{count} x {title}" for title, count in own)


def _seconds_used(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return sum(process.cpu_times()[:2])
    return 0.0


def _state(process: psutil.Process, share: float) -> str:
    with suppress(psutil.Error):
        if process.status() == psutil.STATUS_STOPPED:
            return "stopped"
    return "busy" if share >= BUSY_SHARE else "idle"
