"""A GRPO training of a run: the polish, or a baseline that rewards train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from common.progress import bar
from configs.blocks.rewards import reward_record
from merging.state.run_folder import RunFolder
from merging.training.metrics import grpo_metrics
from routing.trained_rows import check_file
from teachers.build import grpo_text
from trainer.export import export
from trainer.job import TrainingJob
from trainer.run import last_checkpoint, read_metrics, train

if TYPE_CHECKING:
    from merging.state.cluster import Cluster


def check_same_rewards(folder: RunFolder, what: str) -> None:
    """Raises ConfigError for a reward whose file has changed since the merge's prompts were written; `what`
    is trained on it."""
    for domain, written in folder.counts().get("rewards", {}).items():
        declared = folder.config.domains.get(domain)
        if declared is None or reward_record(declared.reward) != written:
            raise ConfigError(
                f"{what}: the reward of domain {domain!r} has changed since the merge's prompts were written "
                f"with {written}; restore its file, or choose another --run-dir"
            )


def train_on_rewards(
    folder: RunFolder,
    job: TrainingJob,
    planned: Mapping[str, int],
    title: str,
    cluster: Cluster,
    target: Path,
) -> None:
    """Trains a job of `teachers.build.grpo_job` to its end, or continues; keeps the metrics under the job's
    name and exports the model to `target`.

    `planned` are the rows of each domain in its file. Raises common.errors.RunFailed.
    """
    with bar(title, job.steps, last_checkpoint(job.checkpoints)) as shown:
        train(job, cluster(), lambda step, raw: shown.update(step, grpo_text(raw)))
    check_file(job.train_file, planned)
    lines = [grpo_metrics(raw["step"], raw, job.max_response_tokens) for raw in read_metrics(job.folder)]
    folder.write_metrics(job.name, lines)
    export(job.checkpoints, job.steps, Path(job.model_path), target, job.lora)
