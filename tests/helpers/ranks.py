"""Runs a function in processes of their own, as the ranks of one gloo group on a CPU."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = ["trainer.engine.registered", "verl.workers.config", "verl.trainer.config", "peft"]
"""Imported once, by the server that the processes are forked from."""

ENVIRONMENT = {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
SECONDS = 240


def on_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns on each rank, in a group of `ranks`.

    `function` stands at the top of a module, and its result can be pickled. Raises AssertionError with the
    traceback of a rank that failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _collect(context, function, ranks, arguments, Path(folder))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _collect(context: Any, function: Callable, ranks: int, arguments: tuple, folder: Path) -> list[Any]:
    processes = [
        context.Process(target=_rank, args=(function, rank, ranks, arguments, folder))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    found = {int(path.stem): pickle.loads(path.read_bytes()) for path in folder.glob("*.answer")}
    errors = [error for _, error in found.values() if error]
    assert not errors, errors[0]
    assert not late and len(found) == ranks, f"{len(found)} of {ranks} ranks answered within {SECONDS} s"
    return [found[rank][0] for rank in range(ranks)]


def _rank(function: Callable, rank: int, ranks: int, arguments: tuple, folder: Path) -> None:
    import torch.distributed

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), **ENVIRONMENT)
    try:
        meeting = f"file://{folder / 'group'}"
        torch.distributed.init_process_group("cpu:gloo", init_method=meeting, rank=rank, world_size=ranks)
        answer = (function(*arguments), None)
    except BaseException:
        answer = (None, f"rank {rank}:\n{traceback.format_exc()}")
    (folder / f"{rank}.answer").write_bytes(pickle.dumps(answer))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
