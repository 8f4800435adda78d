"""Runs whose shares are planned by validations, with a trainer that reads rows as verl's does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from configs.load import LoadedConfig, load_config
from merging.exopd.gap.shares import PoolReader, Reading
from tests.helpers.model_copies import weights_of
from tests.helpers.polished_runs import polished_dict
from tests.helpers.tiny_model import write_config, write_jsonl
from tests.helpers.validations import validated
from tests.helpers.verl_checkpoints import write_checkpoint
from trainer.run import last_checkpoint
from trainer.validation import forget_after, last_step, read_validations, remember

GAP = ("training.steps=4", "training.prompts_per_step=8", "training.validate_every=2")
ACCURACIES = {0: (0.8, 0.4), 2: (0.4, 0.8), 4: (0.9, 0.9)}
"""Of math and code after each step: 2 and 6 rows of each step at first, then 6 and 2."""


def gap_config(folder: Path, *overrides: str, **changes: Any) -> LoadedConfig:
    """Four steps of 8 rows, validated before the first and after every second one; math has four prompts,
    code two, and each two for validation."""
    config = polished_dict(folder, **{"polish": None, "mixing": "gap", **changes})
    for name, domain in config["domains"].items():
        rows = [{"prompt": f"{name} 90{n}+1", "answer": f"90{n + 1}"} for n in range(2)]
        path = write_jsonl(folder / f"{name}.valid.jsonl", rows)
        domain["validation"] = {"kind": "file", "path": str(path)}
    return load_config(write_config(folder, config), [*GAP, *overrides])


class GapTrainer:
    """Stands in for verl: each step adds 1 to all weights and counts the rows that it has read."""

    def __init__(self, accuracies: dict[int, tuple[float, float]] = ACCURACIES) -> None:
        self.accuracies, self.jobs = accuracies, []
        self.killed_after: int | None = None
        self.read: dict[str, list[list[tuple[str, float, int]]]] = {}
        """By job, the rows of each step in order: prompt's id, lambda, index."""

    def __call__(self, job, cluster, on_step, on_validation=lambda found: None):
        self.jobs.append(job)
        self.job, self.on_validation = job, on_validation
        job.folder.mkdir(parents=True, exist_ok=True)
        done, steps = last_checkpoint(job.checkpoints), self.read.setdefault(job.name, [])
        del steps[done:]
        if job.validation is not None:
            forget_after(job.folder, done)
        rows, weights = self._rows(), weights_of(Path(job.model_path))
        self._validate(done)
        for step in range(done + 1, job.steps + 1):
            self._validate(step - 1)
            if step > last_step(job):
                return
            size = job.prompts_per_step
            own = [rows(index) for index in range((step - 1) * size, step * size)]
            steps.append(
                [(row["extra_info"]["id"], row["reward_scale"], row["extra_info"]["index"]) for row in own]
            )
            counts = Counter(row["teacher"] for row in own)
            raw = {f"actor/teacher/{d}/sequences": n * job.samples_per_prompt for d, n in counts.items()}
            raw |= {"critic/score/mean": 0.5, "response_length/mean": 4.0}
            write_checkpoint(
                job.checkpoints, step, [{n: torch.from_numpy(v) + step for n, v in weights.items()}]
            )
            with (job.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "time": 1.0, **raw}) + "\n")
            on_step(step, raw)
            if self.killed_after == step:
                raise KeyboardInterrupt
        self._validate(job.steps)

    def _validate(self, step: int) -> None:
        asked, done = self.job.validation, {one.step for one in read_validations(self.job.folder)}
        if asked is not None and asked.is_due(step, self.job.steps) and step not in done:
            found = validated(step, *self.accuracies[step])
            remember(self.job.folder, found)
            self.on_validation(found)

    def _rows(self):
        table, gap = pq.read_table(self.job.train_file), self.job.verl_overrides.get("data.gap")
        rows = table.to_pylist()
        if gap is None:
            return lambda index: rows[index]
        reader = PoolReader(
            Reading.from_json(json.loads(json.dumps(gap))), table.column("teacher").to_pylist()
        )
        return lambda index: reader.placed(rows[reader.row_at(index)], index)
