"""Runs one training to its end through verl's own `main_ppo`, and shows how it goes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from common.errors import ConfigError, RunFailed, TrainingHalted
from common.files import append_line, cut_unfinished_line, write_text
from common.progress import say
from common.reading import read_json_lines, read_text
from trainer.explained import explain
from trainer.export import imports_beside
from trainer.job import TrainingJob
from trainer.overrides import verl_config
from trainer.processes import failures
from trainer.processes.actors import turn_to_train, wait_for_queue
from trainer.processes.nodes import Nodes
from trainer.processes.ray_cluster import RayCluster
from trainer.processes.stall import StallWatch, activity
from trainer.processes.watch import EngineErrors, PartsWatch, below_this_process
from trainer.sft import Launched, SftJob, launch_sft, sft_config
from trainer.tracking import LOGGER_ROOT, PROJECT, tracking_keys
from trainer.validation import (
    CONFIG_KEY,
    Validated,
    ValidationTail,
    forget_after,
    is_complete,
    keep_best,
    last_step,
    validation_of,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
OnValidation = Callable[[Validated], None]


def train(
    job: TrainingJob | SftJob,
    cluster: RayCluster,
    on_step: OnStep = lambda step, metrics: None,
    on_validation: OnValidation = lambda validated: None,
) -> None:
    """Trains from the last checkpoint, or from the start, to `job.steps`, or until its patience ends.

    Metrics of every step are kept in `job.folder/metrics.jsonl` (one line a step, also over resumed
    runs). Raises RunFailed with the first real error if any part of the run dies or fails, and ConfigError
    for a checkpoint or a cluster's node that this job cannot use.
    """
    recover_metrics(job)
    recover_validations(job)
    if is_complete(job, last_checkpoint(job.checkpoints)):
        return
    mend_tracker(job.checkpoints)
    remove_unfinished(job.checkpoints)
    check_ranks(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    append_line(job.folder / ATTEMPTS, f"{time.time()}")
    failures_file = job.folder / "failures.jsonl"
    failures_file.unlink(missing_ok=True)
    os.environ.setdefault("VERL_LOGGING_LEVEL", "WARN")  # of this process; the workers' logs stay whole
    name = f"{job.name}-{int(time.time() * 1000)}"
    supervised = isinstance(job, SftJob)
    config = sft_config(job, name) if supervised else verl_config(job, name)
    _add(config, failures.CONFIG_KEY, str(failures_file))
    if not supervised:
        _add(config, "protege.imports", list(job.imports))
    if (asked := validation_of(job)) is not None:
        _add(config, CONFIG_KEY, asked.to_json())
    for key, value in tracking_keys(cluster.trackers, job.name).items():
        _add(config, key, value)
    log = Path(os.environ[LOGGER_ROOT]) / PROJECT / f"{name}.jsonl"
    append_line(job.folder / VERL_LOGS, f"{log}")
    metrics = MetricsTail(log, job, on_step, ValidationTail(job, on_validation))
    engines = EngineErrors(cluster.logs, cluster.job)
    if cluster.nodes is not None:
        check_shared(cluster.nodes, job, config)
    try:
        with turn_to_train(job.folder, say) if cluster.nodes is not None else contextlib.nullcontext():
            wait_for_queue()
            if cluster.nodes is not None:
                cluster.nodes.begin()
            parts = PartsWatch.from_now()
            launched = launch_sft(config) if supervised else launch(config)
            stall = StallWatch(job.hardware.stall, doing(cluster.nodes))
            with imports_beside():
                wait(launched, metrics, parts, engines, cluster.nodes, stall)
    except (TrainingHalted, ConfigError):
        raise
    except Exception as error:
        raise RunFailed(
            explain(job, error, failures_file, cluster, engines, attempts(job.folder)[-1])
        ) from error
    if not is_complete(job, reached := last_checkpoint(job.checkpoints)):
        raise RunFailed(f"{job.name}: verl ended without an error at step {reached} of {last_step(job)}")


def last_checkpoint(folder: Path) -> int:
    """Step of the newest complete checkpoint, 0 where there is none.

    verl empties its tracker and writes the step, once the checkpoint is whole. A process that is killed in
    between leaves an empty tracker: then the newest checkpoint is the one that had just become whole.
    """
    tracker = folder / TRACKER
    if not tracker.exists():
        return 0
    if told := _tracked(tracker):
        if not _is_step(told):
            raise ConfigError(
                f"{tracker}: holds {told!r:.40} and not the step of the last checkpoint; write the number of "
                "the newest whole folder global_step_<number> there, or delete the folder to begin anew"
            )
        return int(told)
    steps = [path.name.removeprefix("global_step_") for path in folder.glob("global_step_*")]
    return max((int(step) for step in steps if _is_step(step)), default=0)


def _is_step(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _tracked(tracker: Path) -> str:
    return read_text(tracker, "the step of the last checkpoint").strip()


def mend_tracker(folder: Path) -> None:
    """Writes the step into a tracker that was left empty: verl would fail to read it, and a checkpoint that
    is begun later would be taken for a whole one."""
    tracker = folder / TRACKER
    if tracker.exists() and not _tracked(tracker):
        if step := last_checkpoint(folder):
            write_text(tracker, str(step))
        else:
            tracker.unlink()


def remove_unfinished(folder: Path) -> None:
    """Deletes what a kill or a full disk has left of checkpoints after the last whole one: it takes room."""
    last = last_checkpoint(folder)
    for path in folder.glob("global_step_*"):
        step = path.name.removeprefix("global_step_")
        if step.isdecimal() and int(step) > last:
            shutil.rmtree(path)


def check_ranks(job: TrainingJob | SftJob) -> None:
    """Raises ConfigError for a last checkpoint of another number of devices: it has one file for each."""
    folder = job.checkpoints / f"global_step_{last_checkpoint(job.checkpoints)}"
    devices = job.hardware.gpus * job.hardware.nodes
    written = {int(file.stem.split("_")[3]) for file in folder.rglob("model_world_size_*_rank_*.pt")}
    if written and written != {devices}:
        raise ConfigError(
            f"{job.name}: its last checkpoint ({folder}) was written by {max(written)} devices, and "
            f"hardware.gpus * hardware.nodes is {devices}; continue with as many as it began with, or delete "
            f"{job.folder} to begin anew"
        )


def check_shared(nodes: Nodes, job: TrainingJob | SftJob, config: DictConfig) -> None:
    """Raises ConfigError for a node that lacks the job's folder or a path that verl is given."""
    from omegaconf import OmegaConf

    token = job.folder / f"shared-{uuid.uuid4().hex}"  # a folder of this name may be there, and be another
    token.touch()
    try:
        nodes.check_paths([str(token), *existing_paths(OmegaConf.to_container(config, resolve=False))])
    finally:
        token.unlink()


def existing_paths(value: Any) -> list[str]:
    """Every absolute path in a configuration that this machine has."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return sorted({path for part in value for path in existing_paths(part)})
    return [value] if isinstance(value, str) and value.startswith("/") and Path(value).exists() else []


class Step(TypedDict, extra_items=float | bool):
    """A line of `metrics.jsonl`: the step, when it was, and whatever verl measured."""

    step: int


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All steps of `folder/metrics.jsonl`, in order; a step that was run twice counts once, the last time.

    A last line that a killed process left unfinished is left out.
    """
    rows: list[Any] = read_json_lines(folder / "metrics.jsonl", Step, "metrics, one step a line")
    steps: dict[int, dict[str, Any]] = {row["step"]: row for row in rows}
    return [steps[step] for step in sorted(steps)]


def recover_metrics(job: TrainingJob | SftJob) -> None:
    """Takes over steps that are in a checkpoint and in verl's own log, and not in `metrics.jsonl`.

    verl may do a step more while a killed launcher's processes are being ended. Steps that it logged after
    the last checkpoint are done again.
    """
    listed, target = job.folder / VERL_LOGS, job.folder / "metrics.jsonl"
    if not listed.exists():
        return
    cut_unfinished_line(target)
    known, last = {row["step"] for row in read_metrics(job.folder)}, last_checkpoint(job.checkpoints)
    for log in map(Path, listed.read_text(encoding="utf-8").splitlines()):
        rows = log.read_bytes().splitlines(keepends=True) if log.exists() else []
        for row in (json.loads(line) for line in rows if line.endswith(b"\n")):
            if row["step"] not in known and row["step"] <= last:
                _append(target, row, log.stat().st_mtime)
                known.add(row["step"])


def recover_validations(job: TrainingJob | SftJob) -> None:
    """Leaves the validations of weights that are still there, and the best of these weights kept."""
    asked = validation_of(job)
    if asked is None:
        return
    forget_after(job.folder, last_checkpoint(job.checkpoints))
    if asked.keep_best:
        keep_best(job.folder, job.checkpoints)


def _append(target: Path, row: dict[str, Any], seconds: float) -> dict[str, float]:
    """Writes verl's row as a line of `metrics.jsonl`; returns its numbers."""
    values: dict[str, float] = {
        key: value for key, value in row["data"].items() if isinstance(value, int | float)
    }
    append_line(target, json.dumps({"step": row["step"], "time": seconds, **values}))
    return values


def attempts(folder: Path) -> list[float]:
    """When each attempt at the job began, in seconds since the epoch."""
    return read_json_lines(folder / ATTEMPTS, float, "times of attempts, one a line")


def wall_seconds(folder: Path) -> float:
    """Time that all attempts took so far; a killed one counts until its last step."""
    begins = attempts(folder)
    times = [row["time"] for row in read_metrics(folder)]
    total = time.time() - begins[-1] if begins else 0.0
    for begin, following in itertools.pairwise(begins):
        total += max((t - begin for t in times if begin <= t < following), default=0.0)
    return total


def _add(config: DictConfig, key: str, value: Any) -> None:
    from omegaconf import OmegaConf, open_dict

    with open_dict(config):
        OmegaConf.update(config, key, value, force_add=True)


def launch(config: DictConfig) -> Launched:
    """Starts verl's task runner as its own `main` does; returns the actor and the pending result."""
    from trainer.within.task_runner import TaskRunner

    runner: Any = TaskRunner.remote()
    return runner, runner.run.remote(config)


def doing(nodes: Nodes | None) -> Callable[[], str]:
    """Tells what the parts of the run do, on this machine or on all nodes."""
    return nodes.activity if nodes is not None else lambda: activity(below_this_process())


def wait(
    launched: Launched,
    metrics: MetricsTail,
    parts: PartsWatch,
    engines: EngineErrors,
    nodes: Nodes | None,
    stall: StallWatch,
) -> None:
    """Returns when a launched training has ended; raises its error, or that of a part that died or hangs."""
    import ray

    runner, result = launched
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
            if nodes is not None and (problem := nodes.problem()) is not None:
                raise RuntimeError(problem)
            if (told := stall.look(metrics.signs, metrics.patience_factor())) is not None:
                if stall.settings.action == "stop":
                    raise RuntimeError(told)
                say(told)
            next_look = time.monotonic() + WATCH_SECONDS
    finally:
        ray.kill(runner)


class MetricsTail:
    """Follows verl's file logger and appends each step to the job's `metrics.jsonl`; and its validations."""

    def __init__(
        self, source: Path, job: TrainingJob | SftJob, on_step: OnStep, validations: ValidationTail
    ) -> None:
        self.source, self.on_step, self.validations = source, on_step, validations
        self.target = job.folder / "metrics.jsonl"
        self.offset = self.signs = 0
        """Bytes that were read, and steps and validations of this attempt."""
        self.last = last_checkpoint(job.checkpoints)
        cut_unfinished_line(self.target)

    def read(self) -> None:
        """Takes over all complete lines that are new."""
        for row in self._new_rows():
            self.signs, self.last = self.signs + 1, row["step"]
            self.on_step(row["step"], _append(self.target, row, time.time()))
        self.signs += self.validations.read()

    def patience_factor(self) -> float:
        """See `ValidationTail.patience_factor`."""
        return self.validations.patience_factor(self.last)

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
