"""A gloo group of processes that run a module, without Ray, and one of this process alone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.paths import ROOT


def run_ranks(ranks: int, module: str, arguments: Sequence[str], folder: Path, seconds: float) -> None:
    """Runs `python -m module` as every rank to its end; fails with a rank's output, which is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}  # fmt: skip
    processes = []
    for rank in range(ranks):
        log = (folder / f"rank-{rank}.log").open("w")
        command = [sys.executable, "-m", module, *arguments]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env={**shared, "RANK": str(rank)}, stdout=log, stderr=subprocess.STDOUT
            )
        )
    try:
        for rank, process in enumerate(processes):
            assert process.wait(seconds) == 0, (folder / f"rank-{rank}.log").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def one_rank(backend: str = "gloo") -> Iterator[None]:
    """This process as the only rank."""
    import torch.distributed as dist

    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
