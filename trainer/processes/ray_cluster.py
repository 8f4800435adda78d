"""One Ray cluster for all stages of a run, and nothing of it left afterwards."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import ConfigError, RunFailed
from common.interrupts import sigterm_waits
from common.processes import WARM_PYTHON
from configs.schema import Hardware
from trainer.cpu.fork_server import ForkServer
from trainer.processes import private, reaper
from trainer.processes.devices import check_devices
from trainer.processes.logs import ALL_JOBS
from trainer.processes.machine_lock import JOB_NUMBERS, job_number, machine_lock, visible_devices
from trainer.processes.nodes import WARM, Nodes, fork_client
from trainer.tracking import LOGGER_ROOT

LOGICAL_CPUS = 64
"""Ray's CPUs on one machine, at least: slots that order who may start, and no cores. verl reserves three
beside every device."""

RAY_LOGS = "ray_logs"
"""Folder, in the run folder, with Ray's own logs of a run that failed and that had started Ray itself."""

START_TIMEOUT = "timed out during startup"
"""Part of Ray's message where its own processes took longer than it waits."""


@dataclass(frozen=True)
class RayCluster:
    """A connected cluster; `logs` is Ray's own log folder on this machine."""

    logs: Path
    mark: str
    trackers: tuple[str, ...] = ()
    """Where its trainings also write their metrics, see `trainer.tracking`."""
    job: str = ALL_JOBS
    """Ray's id of this run's job, where `logs` holds those of other jobs too."""
    nodes: Nodes | None = None
    """The nodes of a cluster that was joined; None where Ray was started for this run."""


CPU_ENVIRONMENT = {
    "RAY_worker_register_timeout_seconds": "300",  # a worker waits for the fork server's imports
    "VERL_PLATFORM": "cpu",
    "RAY_worker_niceness": "0",  # Ray's default is 15, which starves the run beside anything else
    "OMP_NUM_THREADS": "1",  # two threads a process on two shared cores ran 10 times slower than one
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # lets the engine keep its one worker in its own process
}
"""Of every process on a machine without GPUs; libraries read some of it when they are imported."""


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
    return {**common, **CPU_ENVIRONMENT}


@contextmanager
def ray_cluster(
    hardware: Hardware,
    metrics_root: Path,
    logical_gpus: int,
    on_wait: Callable[[str], None] = print,
    trackers: tuple[str, ...] = (),
    pool_nodes: int = 1,
) -> Iterator[RayCluster]:
    """Starts (or joins, with `hardware.ray_address`) a Ray cluster; ends it and its processes at exit.

    `logical_gpus` is what a CPU machine declares: the devices of a node for training, and those of the pool,
    which lie on `pool_nodes` nodes; `on_wait` gets a line where another run holds its devices.
    Raises whatever Ray raises where it cannot start.
    """
    devices = visible_devices(hardware.device) if hardware.ray_address is None else []
    alone = machine_lock(str(metrics_root.parent), devices, on_wait)
    with alone, marked_cluster(hardware, metrics_root, logical_gpus, pool_nodes) as cluster:
        yield replace(cluster, trackers=trackers)


@contextmanager
def marked_cluster(
    hardware: Hardware, metrics_root: Path, logical_gpus: int, pool_nodes: int = 1
) -> Iterator[RayCluster]:
    """A cluster whose processes carry a mark in their environment, by which all of them are ended."""
    mark = uuid.uuid4().hex
    environment = {**process_environment(hardware, metrics_root), reaper.MARK: mark}
    before = {key: os.environ.get(key) for key in environment}
    folder = temporary_folder(hardware, mark)
    os.environ.update(environment)
    guard = reaper.start(mark, folder)
    folder.mkdir(mode=0o700, exist_ok=True)  # of several nodes on one machine another may be first
    ours = frozenset({os.getpid(), guard.pid})
    known: frozenset[reaper.Process] = frozenset()
    try:
        with _fork_server(hardware, metrics_root, folder) as server, _job_number(hardware) as number:
            import ray

            keep_sigterm(ray)
            try:
                if hardware.ray_address is not None:
                    pool_devices = logical_gpus - hardware.gpus
                    yield _join(ray, hardware, environment, pool_devices, pool_nodes, folder)
                else:
                    _start(ray, hardware, environment, logical_gpus, server, ours, folder, number)
                    yield RayCluster(logs=folder / SESSION_LOGS, mark=mark)
            except Exception:
                keep_logs(folder / SESSION_LOGS, metrics_root.parent / RAY_LOGS)
                raise
            finally:
                known = reaper.processes_of(mark)
                disconnect(ray)
    finally:
        reaper.end_marked(mark, spare=ours, known=known, patience_seconds=2)  # Ray has asked them already
        private.end(guard)
        private.restore(before)


def temporary_folder(hardware: Hardware, mark: str) -> Path:
    """Where the processes of a run keep temporary files and sockets, and Ray its session.

    It is the run's alone, so that all of it can be removed. On a cluster that is joined it is at the same
    place on every node. A socket's path has 107 bytes at most.
    """
    usual = os.environ.get("RAY_TMPDIR") or private.usual_folder()
    return Path("/tmp" if hardware.ray_address is not None else usual) / f"protege-{mark[:8]}"


SESSIONS = "ray"
"""Folder in the run's for Ray's sessions: Ray lets everybody write to the folder that it is given."""

SESSION_LOGS = f"{SESSIONS}/session_latest/logs"
"""Ray's logs there."""


def keep_logs(logs: Path, target: Path) -> None:
    """Copies Ray's logs of a run that failed; a cluster that was joined keeps its own."""
    if logs.exists():
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):  # the run's own error is the one to tell
            shutil.copytree(logs, target, dirs_exist_ok=True)


def temporary_files(folder: Path) -> dict[str, str]:
    """Environment of every worker of Ray's, not of this process, which goes on when the folder is gone.

    Temporary files go there, but what torch has compiled stays where the next run finds it.
    """
    return {"TMPDIR": str(folder), **private.compiled_code()}


def _job_number(hardware: Hardware) -> AbstractContextManager[int]:
    return job_number() if hardware.ray_address is None else nullcontext(0)


def _fork_server(
    hardware: Hardware, metrics_root: Path, folder: Path
) -> AbstractContextManager[ForkServer | None]:
    """What Ray starts its workers with on a CPU machine; elsewhere it starts Python itself."""
    if hardware.device == "cpu" and hardware.ray_address is None:
        return ForkServer(metrics_root / "fork_server.log", within=folder)
    return nullcontext()


def _start(
    ray: ModuleType,
    hardware: Hardware,
    environment: dict[str, str],
    logical_gpus: int,
    server: ForkServer | None,
    spare: frozenset[int],
    folder: Path,
    number: int,
) -> None:
    runtime: dict[str, object] = {"env_vars": {**environment, **temporary_files(folder)}}
    if server is not None:
        runtime["py_executable"] = str(server.executable)
    slots: dict[str, int] = {"num_cpus": max(LOGICAL_CPUS, os.cpu_count() or 1)}
    if hardware.device == "cpu":
        slots["num_gpus"] = logical_gpus
    start = {"address": "local", "_temp_dir": str(folder / SESSIONS), "include_dashboard": False, **slots}
    init_ray(ray, environment[reaper.MARK], spare, **start, **QUIET, runtime_env=runtime)
    raylet = _node(ray).all_processes["raylet"][0].process.pid
    reach_job(ray, number, ray.get_runtime_context().gcs_address, runtime)
    reaper.note(folder, private.verls_sockets(ray.get_runtime_context().get_job_id()))
    if server is not None:
        server.launch({**_read_at_import(ray, raylet), **temporary_files(folder)})


def _join(
    ray: ModuleType,
    hardware: Hardware,
    environment: dict[str, str],
    pool_devices: int,
    pool_nodes: int,
    folder: Path,
) -> RayCluster:
    """Connects to the cluster at `hardware.ray_address`, and looks after this run on each of its nodes.

    Workers of this job get `environment` wherever they run; all else they have from their own node. Raises
    ConfigError for a cluster that cannot be joined or has no room, and for a node where this code cannot run.
    """
    runtime: dict[str, object] = {"env_vars": {**environment, **temporary_files(folder)}}
    forks = hardware.device == "cpu"
    if forks:
        runtime["env_vars"] = {**environment, **temporary_files(folder), WARM_PYTHON: str(folder / WARM)}
        runtime["py_executable"] = fork_client(folder)
    try:
        connect(ray, address=hardware.ray_address, **QUIET, runtime_env=runtime)
        # runs on this machine that start Ray themselves have the numbers below
        reach_job(ray, JOB_NUMBERS + 1, hardware.ray_address, runtime)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"hardware.ray_address = {hardware.ray_address}: cannot be joined ({error}); this machine must "
            "be a node of the cluster: `ray start --address=...` makes it one"
        ) from error
    check_devices(hardware, pool_devices, ray.nodes(), pool_nodes)
    job = ray.get_runtime_context().get_job_id()
    mark = environment[reaper.MARK]
    return RayCluster(logs=_logs(ray), mark=mark, job=job, nodes=Nodes.join(mark, folder, forks))


QUIET = {"log_to_driver": False, "logging_level": "error"}


def _logs(ray: ModuleType) -> Path:
    return Path(_node(ray).get_logs_dir_path())


def init_ray(ray: ModuleType, mark: str, spare: frozenset[int], **options: Any) -> None:
    """Ray gives itself 30 s to start, which a machine busy with other work may not make: one more try.

    Raises RunFailed if that fails too.
    """
    try:
        connect(ray, **options)
    except Exception as first:
        if START_TIMEOUT not in str(first):
            raise
        disconnect(ray)
        reaper.end_marked(mark, spare=spare, patience_seconds=1)
        try:
            connect(ray, **options)
        except Exception as second:
            raise RunFailed(f"Ray did not start, in two tries: {second}") from second


def keep_sigterm(ray: ModuleType) -> None:
    """Ray would end this process in the middle of whatever it does when SIGTERM comes."""
    ray._private.utils.set_sigterm_handler = lambda handler: None


def connect(ray: ModuleType, **options: Any) -> None:
    """`ray.init`, in which SIGTERM waits: Ray's C++ part would take it."""
    with sigterm_waits():
        ray.init(**options)


def disconnect(ray: ModuleType) -> None:
    """`ray.shutdown`, in which SIGTERM waits: it leaves no handler of that signal."""
    with sigterm_waits():
        ray.shutdown()


def _node(ray: ModuleType) -> Any:
    """Ray's own record of the node that this process started or joined."""
    return ray._private.worker._global_node


def reach_job(ray: ModuleType, least: int, address: str | None, runtime: dict[str, object]) -> None:
    """Connects again where this job's number is below `least`, so that it is that number: verl's sockets are
    named by it. The cluster goes on, also one that this process has started."""
    number = int.from_bytes(bytes.fromhex(ray.get_runtime_context().get_job_id()), "little")
    if number >= least:
        return
    for _ in range(number + 1, least):
        ray._private.state.next_job_id()
    ray._private.worker._global_node = None  # else Ray would end the node that this process has started
    disconnect(ray)
    connect(ray, address=address, **QUIET, runtime_env=runtime)


def _read_at_import(ray: ModuleType, raylet: int) -> dict[str, str]:
    """What Ray gives its workers and reads when it is imported: the same for all workers of this job."""
    return {"RAY_JOB_ID": ray.get_runtime_context().get_job_id(), "RAY_RAYLET_PID": str(raylet)}
