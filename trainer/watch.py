"""Notices a dead part of a run.

verl waits for a rollout that never comes when its engine is gone, so the launcher watches the processes
themselves: every Ray actor and vLLM engine below this process, and every actor that Ray calls dead.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import psutil

GRACE_SECONDS = 10.0
"""How long a vanished part may be followed by the run's own end before it counts as dead: verl's last
step ends its actors before it returns."""

IDLE_TITLES = ("ray::IDLE", "ray::SPILL", "ray::RESTORE")


@dataclass
class PartsWatch:
    """Tracks the parts of a run by process id and title; `dead()` names one that vanished."""

    seen: dict[int, str] = field(default_factory=dict)
    vanished: dict[int, float] = field(default_factory=dict)

    def dead(self) -> str | None:
        """Title and pid of a part that has been gone for `GRACE_SECONDS`, else None."""
        now = time.monotonic()
        alive = _parts()
        for pid in self.seen.keys() - alive.keys():
            self.vanished.setdefault(pid, now)
        for pid, title in alive.items():
            self.seen[pid] = title
            self.vanished.pop(pid, None)
        for pid, since in self.vanished.items():
            if now - since >= GRACE_SECONDS:
                return f"{self.seen[pid]} (pid {pid})"
        return None

    def forget(self) -> None:
        """Drops everything seen: the stage has ended as it should."""
        self.seen.clear()
        self.vanished.clear()


def _parts() -> dict[int, str]:
    """Process id to title of every live Ray actor and vLLM engine below this process."""
    parts: dict[int, str] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()[:1])
            if _is_part(title) and process.status() != psutil.STATUS_ZOMBIE:
                parts[process.pid] = title.split(".")[0]
        except psutil.Error:
            continue
    return parts


def _is_part(title: str) -> bool:
    """A Ray actor is titled `ray::ClassName`, a task `ray::function_name`; engines `VLLM::...`."""
    if title.startswith("VLLM::"):
        return True
    return title.startswith("ray::") and not title.startswith(IDLE_TITLES) and title[5:6].isupper()
