"""Runs one training to its end through verl's own `main_ppo`, and shows how it goes."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer import failures
from trainer.errors import RunFailed, TrainingHalted
from trainer.files import write_text
from trainer.job import TrainingJob
from trainer.overrides import verl_config
from trainer.ray_cluster import RayCluster
from trainer.sft import SftJob, launch_sft, sft_config
from trainer.tracking import LOGGER_ROOT, PROJECT, tracking_keys
from trainer.watch import EngineErrors, PartsWatch

POLL_SECONDS = 0.5
WATCH_SECONDS = 2.0
"""Between two looks at all processes: on two cores a look every half second took a tenth of one."""
TRACKER = "latest_checkpointed_iteration.txt"
"""verl's file with the step of the newest complete checkpoint."""
ATTEMPTS = "attempts"
"""File with the starting time of every attempt, one a line."""

VERL_LOGS = "verl_logs"
"""File with the path of every attempt's metrics as verl writes them, one a line."""

OnStep = Callable[[int, dict[str, float]], None]
"""Called with the step's number and verl's metrics of that step."""


def train(
    job: TrainingJob | SftJob, cluster: RayCluster, on_step: OnStep = lambda step, metrics: None
) -> None:
    """Trains from the last checkpoint, or from the start, to `job.steps`.

    Metrics of every step are kept in `job.folder/metrics.jsonl` (one line a step, also over resumed
    runs). Raises RunFailed with the first real error if any part of the run dies or fails.
    """
    _recover_metrics(job)
    if last_checkpoint(job.checkpoints) == job.steps:
        return
    mend_tracker(job.checkpoints)
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(f"{time.time()}\n")
    failures_file = job.folder / "failures.jsonl"
    failures_file.unlink(missing_ok=True)
    os.environ.setdefault("VERL_LOGGING_LEVEL", "WARN")  # of this process; the workers' logs stay whole
    name = f"{job.name}-{int(time.time() * 1000)}"
    supervised = isinstance(job, SftJob)
    config = sft_config(job, name) if supervised else verl_config(job, name)
    _add(config, failures.CONFIG_KEY, str(failures_file))
    if not supervised:
        _add(config, "protege.imports", list(job.imports))
    for key, value in tracking_keys(cluster.trackers, job.name).items():
        _add(config, key, value)
    log = Path(os.environ[LOGGER_ROOT]) / PROJECT / f"{name}.jsonl"
    with (job.folder / VERL_LOGS).open("a", encoding="utf-8") as file:
        file.write(f"{log}\n")
    metrics = MetricsTail(log, job, on_step)
    engines = EngineErrors(cluster.logs)
    try:
        _wait(launch_sft(config) if supervised else _launch(config), metrics, engines)
    except TrainingHalted:
        raise
    except Exception as error:
        raise RunFailed(_explain(job, error, failures_file, cluster, engines)) from error
    if (reached := last_checkpoint(job.checkpoints)) != job.steps:
        raise RunFailed(f"{job.name}: verl ended without an error at step {reached} of {job.steps}")


def last_checkpoint(folder: Path) -> int:
    """Step of the newest complete checkpoint, 0 where there is none.

    verl empties its tracker and writes the step, once the checkpoint is whole. A process that is killed in
    between leaves an empty tracker: then the newest checkpoint is the one that had just become whole.
    """
    tracker = folder / TRACKER
    if not tracker.exists():
        return 0
    if told := tracker.read_text().strip():
        return int(told)
    steps = [path.name.removeprefix("global_step_") for path in folder.glob("global_step_*")]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def mend_tracker(folder: Path) -> None:
    """Writes the step into a tracker that was left empty: verl would fail to read it, and a checkpoint that
    is begun later would be taken for a whole one."""
    tracker = folder / TRACKER
    if tracker.exists() and not tracker.read_text().strip():
        if step := last_checkpoint(folder):
            write_text(tracker, str(step))
        else:
            tracker.unlink()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All steps of `folder/metrics.jsonl`, in order; a step that was run twice counts once, the last time.

    A last line that a killed process left unfinished is left out.
    """
    path = folder / "metrics.jsonl"
    steps: dict[int, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                steps[row["step"]] = row
    return [steps[step] for step in sorted(steps)]


def _cut_unfinished_line(path: Path) -> None:
    """Removes what a killed process left behind the last line break, before more is appended to it."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _recover_metrics(job: TrainingJob | SftJob) -> None:
    """Takes over steps that are in a checkpoint and in verl's own log, and not in `metrics.jsonl`.

    verl may do a step more while a killed launcher's processes are being ended. Steps that it logged after
    the last checkpoint are done again.
    """
    listed, target = job.folder / VERL_LOGS, job.folder / "metrics.jsonl"
    if not listed.exists():
        return
    _cut_unfinished_line(target)
    known, last = {row["step"] for row in read_metrics(job.folder)}, last_checkpoint(job.checkpoints)
    for log in map(Path, listed.read_text(encoding="utf-8").splitlines()):
        rows = log.read_bytes().splitlines(keepends=True) if log.exists() else []
        for row in (json.loads(line) for line in rows if line.endswith(b"\n")):
            if row["step"] not in known and row["step"] <= last:
                _append(target, row, log.stat().st_mtime)
                known.add(row["step"])


def _append(target: Path, row: dict[str, Any], seconds: float) -> dict[str, float]:
    """Writes verl's row as a line of `metrics.jsonl`; returns its numbers."""
    values = {key: value for key, value in row["data"].items() if isinstance(value, int | float)}
    with target.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": row["step"], "time": seconds, **values}) + "\n")
    return values


def attempts(folder: Path) -> list[float]:
    """When each attempt at the job began, in seconds since the epoch."""
    path = folder / ATTEMPTS
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def wall_seconds(folder: Path) -> float:
    """Time that all attempts took so far; a killed one counts until its last step."""
    begins = attempts(folder)
    times = [row["time"] for row in read_metrics(folder)]
    total = time.time() - begins[-1] if begins else 0.0
    for begin, following in itertools.pairwise(begins):
        total += max((t - begin for t in times if begin <= t < following), default=0.0)
    return total


def _add(config, key: str, value: Any) -> None:
    from omegaconf import OmegaConf, open_dict

    with open_dict(config):
        OmegaConf.update(config, key, value, force_add=True)


def _launch(config):
    """Starts verl's task runner as its own `main` does; returns the actor and the pending result."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from trainer.task_runner import TaskRunner

    if config.trainer.device == "cpu":
        _check_cpu_platform()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that all is well
        validate_config(
            config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
        )
    runner = TaskRunner.remote()
    return runner, runner.run.remote(config)


def _check_cpu_platform() -> None:
    """verl reports a plug-in that fails to load at debug level only, and goes on with another device."""
    from verl.plugin.platform import PlatformRegistry

    if "cpu" not in PlatformRegistry.registered_names():
        raise RuntimeError("verl did not load the plug-in `protege_cpu`; `protege doctor` tells why")


def _wait(launched, metrics: MetricsTail, engines: EngineErrors) -> None:
    import ray

    runner, result = launched
    parts = PartsWatch()
    next_look = 0.0
    try:
        while True:
            done, _ = ray.wait([result], timeout=POLL_SECONDS)
            metrics.read()
            if done:
                ray.get(result)
                return
            if time.monotonic() < next_look:
                continue
            if (part := parts.dead()) is not None:
                raise RuntimeError(f"{part} died")
            if (error := engines.lasting()) is not None:
                raise RuntimeError(f"a vLLM engine failed: {error}")
            next_look = time.monotonic() + WATCH_SECONDS
    finally:
        ray.kill(runner)


class MetricsTail:
    """Follows verl's file logger and appends each step to the job's `metrics.jsonl`."""

    def __init__(self, source: Path, job: TrainingJob | SftJob, on_step: OnStep):
        self.source, self.on_step = source, on_step
        self.target = job.folder / "metrics.jsonl"
        self.offset = 0
        _cut_unfinished_line(self.target)

    def read(self) -> None:
        """Takes over all complete lines that are new."""
        for row in self._new_rows():
            self.on_step(row["step"], _append(self.target, row, time.time()))

    def _new_rows(self) -> Iterator[dict[str, Any]]:
        if not self.source.exists():
            return
        with self.source.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                yield json.loads(line)


def _explain(
    job: TrainingJob | SftJob,
    error: Exception,
    failures_file: Path,
    cluster: RayCluster,
    engines: EngineErrors,
) -> str:
    """What failed, where to read more, and the first real error last."""
    cause = failures.first(failures_file)
    found = cause["error"] if cause else _last_error_line(cluster.logs) or _short(error)
    if ENGINE_DID_NOT_START in found:
        found = engines.first() or found
    log = job.folder / "log.txt"
    log.write_text(_collected_logs(cluster.logs), encoding="utf-8")
    what = f"{job.name} stopped: {_short(error)}"
    return f"{what}\n  more in {log}\n  first error: {found}"


ENGINE_DID_NOT_START = "See root cause above"
"""vLLM's words where an engine's process failed at its start; why stands in the engine's own log only."""


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


ERROR_LINE = re.compile(r"^(?:.*\s)?([A-Za-z_.]*(?:Error|Exception|Interrupt): .+)$")


def _last_error_line(logs: Path) -> str | None:
    """The newest exception that a worker wrote to its error log."""
    newest: tuple[float, str] | None = None
    for file in logs.glob("worker-*.err"):
        matches = [m.group(1) for line in _tail(file) if (m := ERROR_LINE.match(line))]
        if matches and (newest is None or file.stat().st_mtime > newest[0]):
            newest = (file.stat().st_mtime, matches[0])
    return newest[1] if newest else None


def _collected_logs(logs: Path) -> str:
    parts = []
    for file in sorted(
        [*logs.glob("worker-*.err"), *logs.glob("worker-*.out")], key=lambda f: f.stat().st_mtime
    ):
        lines = _tail(file)
        if lines:
            parts.append(f"=== {file.name}\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _tail(file: Path, lines: int = 80) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
