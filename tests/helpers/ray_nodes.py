"""A Ray cluster of several nodes on this machine, as a user starts one, and what a run leaves on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from trainer.processes import reaper


@dataclass(frozen=True)
class RayNodes:
    """The cluster; `address` is what a config names."""

    address: str
    raylets: tuple[int, ...]

    def mark(self) -> str:
        """Mark of the run whose processes are on the nodes."""
        marks = {mark for process in self._workers() if (mark := _environment(process).get(reaper.MARK))}
        assert len(marks) == 1, f"{len(marks)} runs have processes on the nodes"
        return marks.pop()

    def part(self, title: str) -> psutil.Process:
        """A process of a run on the nodes whose title begins like this."""
        return self.parts(title)[0]

    def parts(self, title: str) -> list[psutil.Process]:
        """All of them."""
        return [process for process in self._workers() if _title(process).startswith(title)]

    def node_of(self, part: psutil.Process) -> int:
        """The raylet below which a process is."""
        return next(above.pid for above in part.parents() if above.pid in self.raylets)

    def _workers(self) -> list[psutil.Process]:
        return [child for raylet in self.raylets for child in psutil.Process(raylet).children(recursive=True)]


def left_on_nodes(processes: frozenset[reaper.Process], seconds: float = 30.0) -> list[str]:
    """Those of a run's processes that still live when the time is over; empty as soon as all have ended."""
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if _lives(process)]:
        if time.monotonic() > deadline:
            return [f"{process.pid}: {_title(psutil.Process(process.pid))}" for process in left]
        time.sleep(0.2)
    return []


@contextmanager
def ray_nodes(*rooms: tuple[int, int]) -> Iterator[RayNodes]:
    """Starts a node for each pair (devices, CPUs); the first one is the head."""
    from ray.cluster_utils import Cluster

    head, *others = ({"num_gpus": devices, "num_cpus": cpus} for devices, cpus in rooms)
    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    try:
        for room in others:
            cluster.add_node(**room)
        nodes = cluster.list_all_nodes()
        yield RayNodes(cluster.address, tuple(node.all_processes["raylet"][0].process.pid for node in nodes))
    finally:
        cluster.shutdown()


def _lives(process: reaper.Process) -> bool:
    return process in reaper.alive([process])


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return process.environ()
    return {}


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:1])
    return ""
