"""Start-up of a stage's processes: plain Python, which imports in each, against the fork server.

`python -m benchmarks.startup [--processes 4]` starts that many processes one after another in both ways, each
ready once verl and vLLM are imported, and prints seconds, resident memory (shared pages counted once) and
ratios. The baseline is plain Python, measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from common.processes import pipes
from configs.schema import Hardware
from merging.state.measure import memory_of_tree
from trainer.cpu.fork_server import PRELOADED, ForkServer
from trainer.processes.ray_cluster import process_environment

READY = "import {}; print('ready', flush=True); input()"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both ways and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=main.__doc__)
    parser.add_argument("--processes", type=int, default=4, help="processes to start in each way")
    count = parser.parse_args(arguments).processes
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(process_environment(Hardware(device="cpu"), Path(folder)))
        _start([sys.executable], 1)  # reads the files once: what comes first would pay for the disk
        plain = _start([sys.executable], count)
        with ForkServer(Path(folder) / "log") as server:
            began = time.perf_counter()
            server.launch()
            forked = _start([str(server.executable)], count, began)
    print(f"{platform.node()}, {psutil.cpu_count()} cores; {count} processes, torch, verl and vLLM imported")
    print(f"{'':24}{'seconds':>10}{'memory':>12}")
    for name, (seconds, memory) in (("plain Python (baseline)", plain), ("fork server", forked)):
        print(f"{name:24}{seconds:10.1f}{memory / 2**20:8.0f} MiB")
    print(f"{'ratio':24}{plain[0] / forked[0]:9.1f}x{plain[1] / forked[1]:11.1f}x")


def _start(python: list[str], count: int, began: float | None = None) -> tuple[float, int]:
    """Seconds until all are ready, and the bytes that all of this process's descendants hold then."""
    began = time.perf_counter() if began is None else began
    own = memory_of_tree()
    processes = []
    for _ in range(count):
        process = subprocess.Popen(
            [*python, "-c", READY.format(", ".join(PRELOADED))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        _, stdout = pipes(process)
        while (line := stdout.readline()) and line != "ready\n":
            pass
    seconds, memory = time.perf_counter() - began, memory_of_tree() - own
    for process in processes:
        for pipe in pipes(process):
            pipe.close()
        process.wait(60)
    return seconds, memory


if __name__ == "__main__":
    main()
