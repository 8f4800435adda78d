"""Kills parts of a real run on a Ray cluster: `python -m benchmarks.kill_parts CONFIG [--part NAME ...]`.

Starts a cluster on this machine whose head has no device, as a user starts one, runs the config's merge on
its other nodes, and kills one part there once a step is done: a rollout engine, the scorer, a training
worker, a server, a whole node's raylet, that of the head, or the command itself. Prints how long the command
took to end, what it said was the first error, and what it left: processes, and files in /tmp and /dev/shm.
Every part has a run folder and a cluster of its own. Exits with 1 where a run did not end within the limit,
ended without an error, or left something behind. Run it alone: files of other runs would be counted.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer.processes import reaper
from trainer.run import read_metrics

PARTS = {
    "engine": "VLLM::EngineCore",
    "scorer": "ray::ScorerReplica",
    "worker": "ray::WorkerDict",
    "server": "ray::vLLM",
    "raylet": "",
    "head": "",
    "command": "",
}
"""Title of the process that is killed, on the last node that has one; `raylet` and `head` are the raylets of
the last and the first node."""

FILES = (
    "/tmp/protege-[0-9a-f]*",
    "/tmp/rl-colocate-*",
    "/tmp/vllm_dist_*",
    "/tmp/????????-????-????-????-????????????",
    "/dev/shm/*",
)
"""What a run makes in these folders; the locks there stay."""

START_SECONDS = 280.0
END_SECONDS = 120.0
SETTLE_SECONDS = 3.0
"""In which the reapers, which end last, remove files."""
LIMIT_SECONDS = 30.0
"""Within which a run has to end."""


@dataclass(frozen=True)
class Outcome:
    """What came of killing one part."""

    part: str
    killed: str
    seconds: float
    """From the kill to the command's end."""
    code: int | None
    """Exit code of the command; None where it had to be ended."""
    said: str
    """Last line of its output."""
    left: int
    """Processes of the run that lived on for half a minute."""
    files: int
    """Files of the run that were there still."""

    @property
    def good(self) -> bool:
        """Ended in time, with an error, and with nothing left."""
        code = -signal.SIGKILL if self.part == "command" else 1
        return self.code == code and self.seconds <= LIMIT_SECONDS and not self.left + self.files

    def row(self) -> str:
        """As a line of a table."""
        cells = (self.part, self.killed, f"{self.seconds:.1f} s", self.code, self.left, self.files, self.said)
        return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Kills each part in turn and prints a table."""
    options = read_options()
    print(
        "| part | killed | ended after | exit | processes | files | said |\n|---|---|--:|--:|--:|--:|---|",
        flush=True,
    )
    outcomes = []
    for part in options.part:
        outcomes.append(kill(part, options))
        print(outcomes[-1].row(), flush=True)
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


def read_options() -> argparse.Namespace:
    """The command line; ends the program on one that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_parts", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="which to kill [all of them]")
    parser.add_argument("--nodes", type=int, default=2, help="nodes with a device, beside the head")
    parser.add_argument("--out", type=Path, default=Path("runs/kill_parts"), help="new folder of the runs")
    options = parser.parse_args()
    options.config, options.out = options.config.absolute(), options.out.absolute()
    options.part = options.part or list(PARTS)
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    return options


def kill(part: str, options: argparse.Namespace) -> Outcome:
    """Runs the merge until a step is done, kills the part on the last node that has one, and waits."""
    run, log = options.out / part, options.out / f"{part}.log"
    options.out.mkdir(parents=True, exist_ok=True)
    before = files()
    with nodes(options.nodes) as (address, raylets):
        process = start(options, address, run, log)
        try:
            wait_for_a_step(process, run, log)
            running = run_processes(raylets)
            victim = psutil.Process(process.pid) if part == "command" else find(part, raylets)
            where = [
                raylet for raylet in raylets if part != "command" and raylet == raylet_of(victim, raylets)
            ]
            told = title(victim) + "".join(f" on node {1 + raylets.index(raylet)}" for raylet in where)
            victim.send_signal(signal.SIGKILL)
            began = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            seconds, code = time.monotonic() - began, process.poll()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(60)
        left = still_running(running, 30.0)
        if part == "command":  # it ends at once; the others are what takes time
            seconds = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        kept = len(files() - before)
    shutil.rmtree(run / "train", ignore_errors=True)
    return Outcome(part, told, seconds, code, last_line(log), left, kept)


@contextmanager
def nodes(count: int) -> Iterator[tuple[str, list[int]]]:
    """Address of a cluster with a head without devices and `count` nodes with one; their raylets' ids."""
    from ray.cluster_utils import Cluster

    head = {"num_gpus": 0, "num_cpus": 8, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(count):
            cluster.add_node(num_gpus=1, num_cpus=32)
        every = cluster.list_all_nodes()
        yield str(cluster.address), [node.all_processes["raylet"][0].process.pid for node in every]
    finally:
        cluster.shutdown()


def start(options: argparse.Namespace, address: str, run: Path, log: Path) -> subprocess.Popen:
    """The command, on the cluster."""
    hardware = {"device": "cpu", "gpus": 1, "nodes": options.nodes, "ray_address": f'"{address}"'}
    changes = [*options.set, *(f"hardware.{key}={value}" for key, value in hardware.items())]
    command = [str(Path(sys.executable).with_name("protege")), "merge", str(options.config)]
    command += ["--run-dir", str(run), *(part for change in changes for part in ("--set", change))]
    with log.open("a") as file:
        return subprocess.Popen(command, env={**os.environ, "TERM": "dumb"}, stdout=file, stderr=file)


def wait_for_a_step(process: subprocess.Popen, run: Path, log: Path) -> None:
    """Exits where the run ends before its first step, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not read_metrics(run / "train"):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"no first step; the run's log ends with:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def find(part: str, raylets: list[int]) -> psutil.Process:
    """The part's process on the last node that has one; exits where none has."""
    if part in ("raylet", "head"):
        return psutil.Process(raylets[-1 if part == "raylet" else 0])
    seen = []
    for raylet in reversed(raylets):
        for process in psutil.Process(raylet).children(recursive=True):
            seen.append(title(process))
            if seen[-1].startswith(PARTS[part]):
                return process
    sys.exit(f"no process is titled {PARTS[part]}; there are {sorted(set(seen))}")


def title(process: psutil.Process) -> str:
    """What the process calls itself."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:1]).split("(")[0].rsplit("/", 1)[-1]
    return ""


def raylet_of(process: psutil.Process, raylets: list[int]) -> int:
    """The raylet that the process is or stands below."""
    return next(p.pid for p in (process, *process.parents()) if p.pid in raylets)


def run_processes(raylets: list[int]) -> frozenset[reaper.Process]:
    """All processes of the run whose parts stand below the raylets."""
    for raylet in raylets:
        for process in psutil.Process(raylet).children(recursive=True):
            with suppress(psutil.Error):
                if mark := process.environ().get(reaper.MARK):
                    return reaper.processes_of(mark)
    sys.exit("no process of the run is on the nodes")


def still_running(processes: frozenset[reaper.Process], seconds: float) -> int:
    """How many of the processes outlive the time."""
    deadline = time.monotonic() + seconds
    while (left := reaper.alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return len(left)


def files() -> set[str]:
    """What runs have in /tmp and /dev/shm at this moment."""
    found = {path for pattern in FILES for path in glob.glob(pattern)}
    return {path for path in found if not path.endswith(".lock")}


def last_line(log: Path) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(log.read_text().splitlines()) if line.strip()), "")


if __name__ == "__main__":
    main()
