"""The baseline `grpo`: one model trained on all domains by reinforcement learning, without teachers."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.baselines import GrpoBaseline
from configs.load import ConfigError
from configs.rewards import reward_record
from configs.schema import MergeConfig
from merging.metrics import grpo_metrics
from merging.progress import bar, grpo_text
from merging.run_folder import RunFolder
from merging.trained_rows import check_file
from merging.weights import open_work, write_record
from routing.routers import RoutedPrompt
from teachers.build import grpo_job
from trainer.export import export
from trainer.files import write_json
from trainer.job import TrainingJob
from trainer.run import last_checkpoint, read_metrics, train

if TYPE_CHECKING:
    from merging.cluster import Cluster


PLANNED = "planned.json"
"""File of the training's folder with its rows by domain."""


def train_grpo(
    folder: RunFolder, baseline: GrpoBaseline, rows: Sequence[RoutedPrompt], cluster: Cluster, target: Path
) -> None:
    """Trains on the scheduled rows, or continues, and exports the model to `target`.

    Raises ConfigError for rows or rewards that are not the merge's, and trainer.errors.RunFailed.
    """
    in_order = folder.config.mixing.order.kind == "shuffled"
    check_same_prompts(rows, folder.prompts_file, in_order)
    check_same_rewards(folder.config, folder.counts())
    name, work = baseline.kind, folder.path / baseline.kind
    open_work(baseline, work)
    planned = dict(Counter(row.domain for row in rows))
    write_json(work / PLANNED, planned)
    job = baseline_job(folder.config, baseline, rows, work)
    with bar(f"baseline {name}", job.steps, last_checkpoint(job.checkpoints)) as shown:
        train(job, cluster(), lambda step, raw: shown.update(step, grpo_text(raw)))
    check_file(job.train_file, planned)
    lines = [grpo_metrics(raw["step"], raw, job.max_response_tokens) for raw in read_metrics(work)]
    folder.write_metrics(name, lines)
    export(job.checkpoints, job.steps, Path(folder.config.student), target)
    # last: a model without a record counts as made by other options, and is exported again
    write_record(baseline, target)


def planned_grpo(folder: RunFolder) -> dict[str, int]:
    """Rows of each domain in the training; empty where none was begun."""
    file = folder.path / "grpo" / PLANNED
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def baseline_job(
    config: MergeConfig, baseline: GrpoBaseline, rows: Sequence[RoutedPrompt], work: Path
) -> TrainingJob:
    """An expert's job on all domains, with the merge's student, steps, rollouts and optimizer.

    Writes the rows to `work/prompts.parquet`.
    """
    training = config.training
    return grpo_job(
        config,
        rows,
        work,
        name=baseline.kind,
        model_path=config.student,
        steps=training.steps,
        prompts_per_step=config.grpo_prompts_per_step(baseline),
        samples_per_prompt=baseline.samples_per_prompt,
        learning_rate=baseline.learning_rate or training.learning_rate,
        warmup_steps=training.warmup_steps,
        schedule=training.schedule,
        weight_decay=training.weight_decay,
        gradient_clip=training.gradient_clip,
        loss_aggregation=training.loss_aggregation,
        max_prompt_tokens=training.max_prompt_tokens,
        max_response_tokens=training.max_response_tokens,
        save_every=training.save_every,
        seed=training.seed,
    )


def check_same_prompts(rows: Sequence[RoutedPrompt], merge_file: Path, in_order: bool = True) -> None:
    """Raises ConfigError unless each domain's rows and the merge's, as far as both go, are the same.

    A curriculum sorts the rows of each training for itself: there the order may differ. The merge's rows
    were fixed when it began; a baseline that is added later reads its sources anew.
    """
    import pyarrow.parquet

    columns = ["teacher", "extra_info", "reward_model"]
    given = defaultdict(list)
    for row in pyarrow.parquet.read_table(merge_file, columns=columns).to_pylist():
        given[row["teacher"]].append((row["extra_info"]["id"], row["reward_model"]["ground_truth"]))
    own = defaultdict(list)
    for row in rows:
        own[row.domain].append((row.prompt.id, json.dumps(row.prompt.answer, ensure_ascii=False)))
    for domain, pairs in own.items():
        if not _agree(pairs, given[domain], in_order):
            raise ConfigError(
                f"baseline `grpo`: the prompts of domain {domain!r} have changed since the merge's were "
                f"written ({merge_file}); restore them, or choose another --run-dir"
            )


def check_same_rewards(config: MergeConfig, counts: dict[str, Any]) -> None:
    """Raises ConfigError for a reward whose file has changed since the merge's prompts were written."""
    for domain, written in counts.get("rewards", {}).items():
        if reward_record(config.domains[domain].reward) != written:
            raise ConfigError(
                f"baseline `grpo`: the reward of domain {domain!r} has changed since the merge's prompts "
                f"were written with {written}; restore its file, or choose another --run-dir"
            )


def _agree(ours: Sequence[tuple], theirs: Sequence[tuple], in_order: bool) -> bool:
    """Whether the shorter of the two is part of the longer one, as its beginning if `in_order`."""
    if in_order:
        return all(own == other for own, other in zip(ours, theirs, strict=False))
    shorter, longer = sorted((ours, theirs), key=len)
    return not Counter(shorter) - Counter(longer)
