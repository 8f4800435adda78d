"""Trainers for the tests of builds and baselines that need no verl."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from common.errors import RunFailed
from tests.helpers.model_copies import weights_of
from tests.helpers.paths import STUDENT
from tests.helpers.verl_checkpoints import lora_weights, write_checkpoint
from trainer.run import last_checkpoint


class FakeCluster:
    """Stands in for Ray, of which these trainers want nothing."""

    def __call__(self) -> None:
        return None


class ExpertTrainer:
    """Stands in for verl: writes metrics and the base's own weights, all of them plus one."""

    def __init__(self) -> None:
        self.jobs = []

    def __call__(self, job, cluster, on_step, *_):
        self.jobs.append(job)
        (job.folder / "attempts").write_text("1000.0\n1010.0\n")
        rows = [
            {"step": n + 1, "time": 1000.0 + n, "critic/score/mean": n / 10, "actor/entropy": 0.5, "other": 1}
            for n in range(job.steps)
        ]
        (job.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        weights = {name: torch.from_numpy(value) + 1 for name, value in weights_of(STUDENT).items()}
        write_checkpoint(job.checkpoints, job.steps, [weights])


class GrpoTrainer:
    """Stands in for verl: the base's weights plus the number of trainings so far."""

    def __init__(self) -> None:
        self.jobs, self.fails = [], False

    def __call__(self, job, cluster, on_step, *_):
        if last_checkpoint(job.checkpoints) == job.steps:
            return
        self.jobs.append(job)
        raw = {
            "critic/score/mean": 0.25, "actor/entropy": 0.5, "response_length/mean": 6.0,
            "response_length/max": 16.0, "response_length/clip_ratio": 0.125,
        }  # fmt: skip
        for step in range(last_checkpoint(job.checkpoints) + 1, job.steps + 1):
            weights = {n: torch.from_numpy(v) + len(self.jobs) for n, v in weights_of(STUDENT).items()}
            write_checkpoint(job.checkpoints, step, [weights])
            with (job.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "time": 1.0, **raw}) + "\n")
            on_step(step, raw)
            if self.fails:
                raise RunFailed("an engine died")


def _trained(job) -> dict[str, torch.Tensor]:
    """All weights that the job trains, as its checkpoint names them."""
    if job.lora is None:
        return {name: torch.from_numpy(value) + 1 for name, value in weights_of(Path(job.model_path)).items()}
    weights = {name: value * (".lora_A." in name) for name, value in lora_weights(job.lora.rank).items()}
    if job.lora.start is not None:
        found = load_file(Path(job.lora.start) / "adapter_model.safetensors")
        weights = {name.replace(".weight", ".default.weight"): value for name, value in found.items()}
    return {name: value + (".lora_B." in name) for name, value in weights.items()}


class StageTrainer:
    """Stands in for verl in every stage: the job's own model plus 1, or its adapter with 1 more in the second
    factors, and the loss's counts of its rows."""

    def __init__(self) -> None:
        self.jobs, self.killed_in = [], None

    def __call__(self, job, cluster, on_step, *_):
        done = last_checkpoint(job.checkpoints)
        if done == job.steps:
            return
        self.jobs.append(job)
        teachers = pq.read_table(job.train_file).column("teacher").to_pylist()
        weights = _trained(job)
        for step in range(done + 1, job.steps + 1):
            own = Counter(teachers[(step - 1) * job.prompts_per_step : step * job.prompts_per_step])
            raw = {f"actor/teacher/{d}/sequences": n * job.samples_per_prompt for d, n in own.items()}
            raw |= {"critic/score/mean": 0.5, "response_length/mean": 4.0}
            write_checkpoint(job.checkpoints, step, [weights])
            with (job.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "time": 1.0, **raw}) + "\n")
            on_step(step, raw)
            if self.killed_in == job.name:
                raise KeyboardInterrupt

    @property
    def names(self) -> list[str]:
        """Jobs that were begun or continued, in order."""
        return [job.name for job in self.jobs]
