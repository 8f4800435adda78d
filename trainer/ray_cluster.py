"""One Ray cluster for all stages of a run, and nothing of it left afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import Hardware
from trainer import reaper
from trainer.errors import RunFailed
from trainer.fork_server import ForkServer
from trainer.machine_lock import machine_lock
from trainer.tracking import LOGGER_ROOT

LOGICAL_CPUS = 64
"""Ray slots on a CPU machine: they order who may start, and do not stand for cores."""

START_TIMEOUT = "timed out during startup"
"""Part of Ray's message where its own processes took longer than it waits."""


@dataclass(frozen=True)
class RayCluster:
    """A connected cluster; `logs` is Ray's own log folder on this machine."""

    logs: Path
    mark: str
    trackers: tuple[str, ...] = ()
    """Where its trainings also write their metrics, see `trainer.tracking`."""


def process_environment(hardware: Hardware, metrics_root: Path) -> dict[str, str]:
    """Environment of every process of a run (strings; set before Ray starts)."""
    common = {
        LOGGER_ROOT: str(metrics_root),
        "TRANSFER_QUEUE_ENABLE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARN",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if hardware.device == "cuda":
        return common
    return {
        **common,
        "RAY_worker_register_timeout_seconds": "300",  # a worker waits for the fork server's imports
        "VERL_PLATFORM": "cpu",
        "RAY_worker_niceness": "0",  # Ray's default is 15, which starves the run beside anything else
        "OMP_NUM_THREADS": "1",  # two threads a process on two shared cores ran 10 times slower than one
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # lets the engine keep its one worker in its own process
    }


@contextmanager
def ray_cluster(
    hardware: Hardware,
    metrics_root: Path,
    logical_gpus: int,
    on_wait: Callable[[str], None] = print,
    trackers: tuple[str, ...] = (),
) -> Iterator[RayCluster]:
    """Starts (or joins, with `hardware.ray_address`) a Ray cluster; ends it and its processes at exit.

    `logical_gpus` is what a CPU machine declares; `on_wait` gets a line where another run holds the machine.
    Raises whatever Ray raises where it cannot start.
    """
    owner = f"pid {os.getpid()}, {metrics_root.parent}"
    alone = machine_lock(owner, on_wait) if hardware.ray_address is None else nullcontext()
    with alone, _marked_cluster(hardware, metrics_root, logical_gpus) as cluster:
        yield replace(cluster, trackers=trackers)


@contextmanager
def _marked_cluster(hardware: Hardware, metrics_root: Path, logical_gpus: int) -> Iterator[RayCluster]:
    mark = uuid.uuid4().hex
    environment = {**process_environment(hardware, metrics_root), reaper.MARK: mark}
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    guard = reaper.start(mark)
    ours = frozenset({os.getpid(), guard.pid})
    known: frozenset[reaper.Process] = frozenset()
    try:
        with _fork_server(hardware, metrics_root) as server:
            import ray

            try:
                _start(ray, hardware, environment, logical_gpus, server, ours)
                logs = Path(ray._private.worker._global_node.get_logs_dir_path())
                yield RayCluster(logs=logs, mark=mark)
            finally:
                known = reaper.processes_of(mark)
                ray.shutdown()
    finally:
        reaper.end_marked(mark, spare=ours, known=known, patience_seconds=2)  # Ray has asked them already
        guard.stdin.close()
        guard.wait(timeout=30)
        _restore(before)


def _fork_server(hardware: Hardware, metrics_root: Path) -> AbstractContextManager[ForkServer | None]:
    """What Ray starts its workers with on a CPU machine; elsewhere it starts Python itself."""
    if hardware.device == "cpu" and hardware.ray_address is None:
        return ForkServer(metrics_root / "fork_server.log")
    return nullcontext()


def _start(
    ray,
    hardware: Hardware,
    environment: dict[str, str],
    logical_gpus: int,
    server: ForkServer | None,
    spare: frozenset[int],
) -> None:
    runtime: dict[str, object] = {"env_vars": environment}
    if server is not None:
        runtime["py_executable"] = str(server.executable)
    quiet = {"log_to_driver": False, "logging_level": "error", "runtime_env": runtime}
    if hardware.ray_address is not None:
        ray.init(address=hardware.ray_address, **quiet)
    else:
        devices = {"num_cpus": LOGICAL_CPUS, "num_gpus": logical_gpus} if hardware.device == "cpu" else {}
        _init(ray, environment[reaper.MARK], spare, include_dashboard=False, **devices, **quiet)
    if server is not None:
        server.launch(_read_at_import(ray))


def _init(ray, mark: str, spare: frozenset[int], **options) -> None:
    """Ray gives itself 30 s to start, which a machine busy with other work may not make: one more try.

    Raises RunFailed if that fails too.
    """
    try:
        ray.init(**options)
    except Exception as first:
        if START_TIMEOUT not in str(first):
            raise
        ray.shutdown()
        reaper.end_marked(mark, spare=spare, patience_seconds=1)
        try:
            ray.init(**options)
        except Exception as second:
            raise RunFailed(f"Ray did not start, in two tries: {second}") from second


def _read_at_import(ray) -> dict[str, str]:
    """What Ray gives its workers and reads when it is imported: the same for all workers of this job."""
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process
    return {"RAY_JOB_ID": ray.get_runtime_context().get_job_id(), "RAY_RAYLET_PID": str(raylet.pid)}


def _restore(before: dict[str, str | None]) -> None:
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
