"""The merge's training by verl, as `protege merge` runs it, step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.step.models import TEACHERS
from benchmarks.timing import cpu_by_process

if TYPE_CHECKING:
    from merging.state.run_folder import RunFolder
    from trainer.processes.ray_cluster import RayCluster

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "runs" / "quickstart.yaml"
WATCH_SECONDS = 0.02
LEARNING_RATE = 1e-6
"""So small that the student's answers stay as long as they are."""

PARTS = {
    "rollout and scoring": "timing_s/gen",
    "log-probs before": "timing_s/old_log_prob",
    "update": "timing_s/update_actor",
    "weights to sampler": "timing_s/update_weights",
}
"""verl's times of a step; what it spends between them, and between two steps, is the rest."""


def write_config(folder: Path, models: dict[str, str], steps: int, settings: dict[str, Any]) -> Path:
    """The quickstart with these models as student and experts, and no evaluation to speak of."""
    config = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    config["student"] = models["student"]
    for name in TEACHERS:
        domain = config["domains"][name]
        domain["expert"] = {"kind": "model", "path": models[name]}
        for place in (domain["prompts"], domain["validation"], *domain["benchmarks"]):
            place["path"] = str((QUICKSTART.parent / place["path"]).resolve())
    config["training"] |= {"steps": steps, "learning_rate": LEARNING_RATE, **settings.pop("training", {})}
    config |= settings
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def open_run(config: Path, run_dir: Path) -> RunFolder:
    """The run's folder with its prompts written, ready for its training."""
    from configs.load import load_config
    from merging.checks.preflight import preflight
    from merging.run import write_prompts
    from merging.state.run_folder import RunFolder

    loaded = load_config(config)
    found = preflight(loaded, run_dir)
    folder = RunFolder.open(run_dir, loaded, found)
    write_prompts(folder, found)
    return folder


def prompts_of(folder: RunFolder) -> list[list[tuple[str, str]]]:
    """(domain, prompt) of every row of every step."""
    import pyarrow.parquet as pq

    rows = [
        (row["teacher"], row["prompt"][-1]["content"])
        for row in pq.read_table(folder.prompts_file).to_pylist()
    ]
    each = folder.config.training.prompts_per_step
    return [rows[start : start + each] for start in range(0, len(rows), each)]


@dataclass
class Trained:
    """What a training took."""

    seconds_to_first_step: float
    """From the call to the beginning of step 1."""
    steps: list[dict[str, float]] = field(default_factory=list)
    """Seconds by part of each step, and `tokens`, without those that warm up."""
    seconds: float = 0.0
    """Wall seconds of one step, from the end of one to the end of the next: their mean."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Processor seconds of one step by process, in the same time."""


def train(folder: RunFolder, work: Path, cluster: RayCluster, warm_up: int) -> Trained:
    """Trains the run's merge to its end in `work`. The first `warm_up` steps are not counted."""
    import merging.exopd.job as exopd
    from trainer.run import read_metrics
    from trainer.run import train as run_training

    config = folder.config
    paths = {name: str(config.domains[name].expert.path) for name in TEACHERS}  # pyright: ignore[reportAttributeAccessIssue]  # all are given models
    job = exopd.merge_job(config, "merge", paths, folder.prompts_file, work)
    began = time.time()
    with _marks(folder.path / "verl_metrics") as marks:
        run_training(job, cluster)
    rows = read_metrics(work)
    return Trained(_first_step(rows[0], marks[0], began), *counted(rows, marks, warm_up))


@dataclass(frozen=True)
class Mark:
    """The end of a step: seconds since the epoch, and processor seconds so far by process."""

    time: float
    cpu: dict[str, float]


def _first_step(row: dict[str, float], mark: Mark, began: float) -> float:
    return mark.time - row["timing_s/step"] - began


def counted(
    rows: Sequence[dict[str, float]], marks: Sequence[Mark], warm_up: int
) -> tuple[list[dict[str, float]], float, dict[str, float]]:
    """(parts of each step, wall seconds of one, processor seconds of one by process); the steps after
    `warm_up`, without the last, which stores a checkpoint."""
    first, last = marks[warm_up - 1], marks[-2]
    steps = []
    for row, before, after in zip(rows[warm_up:-1], marks[warm_up - 1 : -2], marks[warm_up:-1], strict=True):
        parts = {name: row.get(key, 0.0) for name, key in PARTS.items()}
        parts["rest"] = after.time - before.time - sum(parts.values())
        steps.append(parts | {"tokens": row["response_length/mean"] * len(TEACHERS)})
    count = len(steps)
    cpu = {name: (after - first.cpu.get(name, 0.0)) / count for name, after in last.cpu.items()}
    return (
        steps,
        (last.time - first.time) / count,
        {name: spent for name, spent in cpu.items() if spent > 0.005},
    )


@contextmanager
def _marks(metrics_root: Path) -> Iterator[list[Mark]]:
    """Time and processor seconds at the end of each step: whenever verl has written a line of metrics."""
    known = {path: path.stat().st_size for path in metrics_root.rglob("*.jsonl")}
    marks: list[Mark] = []
    stop = threading.Event()

    def watch() -> None:
        seen = 0
        while not stop.wait(WATCH_SECONDS):
            new = [path for path in metrics_root.rglob("*.jsonl") if path not in known]
            if new and new[0].stat().st_size > seen:
                seen = new[0].stat().st_size
                marks.append(Mark(time.time(), cpu_by_process()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield marks
        time.sleep(5 * WATCH_SECONDS)
    finally:
        stop.set()
        thread.join()
