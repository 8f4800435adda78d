"""The baseline `grpo`: one model trained on all domains by reinforcement learning, without teachers."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from common.files import write_json
from common.reading import read_json
from configs.blocks.baselines import GrpoBaseline
from configs.schema import MergeConfig
from merging.state.baseline_record import open_work, options, write_record
from merging.state.run_folder import RunFolder
from merging.training.rewarded import check_same_rewards, train_on_rewards
from routing.routers.decisions import RoutedPrompt
from teachers.build import grpo_job, write_judged_rows
from trainer.job import TrainingJob, merge_settings

if TYPE_CHECKING:
    from merging.state.cluster import Cluster


PLANNED = "planned.json"
"""File of the training's folder with its rows by domain."""


def train_grpo(
    folder: RunFolder, baseline: GrpoBaseline, rows: Sequence[RoutedPrompt], cluster: Cluster, target: Path
) -> None:
    """Trains on the scheduled rows, or continues, and exports the model to `target`.

    Raises ConfigError for rows or rewards that are not the merge's, and common.errors.RunFailed.
    """
    in_order = not folder.config.mixing.order.sorts
    check_same_prompts(rows, folder.prompts_file, f"baseline `{baseline.kind}`", in_order)
    check_same_rewards(folder, f"baseline `{baseline.kind}`")
    name, work = baseline.kind, folder.path / baseline.kind
    open_work(baseline, work)
    planned = dict(Counter(row.domain for row in rows))
    write_json(work / PLANNED, planned)
    job = baseline_job(folder.config, baseline, rows, work)
    train_on_rewards(folder, job, planned, f"baseline {name}", cluster, target)
    # last: a model without a record counts as made by other options, and is exported again
    write_record(baseline, target)


def planned_grpo(folder: RunFolder) -> dict[str, int]:
    """Rows of each domain in the training; empty where none was begun."""
    file = folder.path / "grpo" / PLANNED
    return read_json(file, dict[str, int], "the rows that are planned") if file.exists() else {}


def baseline_job(
    config: MergeConfig, baseline: GrpoBaseline, rows: Sequence[RoutedPrompt], work: Path
) -> TrainingJob:
    """An expert's job on all domains, with the merge's student, steps, rollouts and optimizer.

    Writes the rows to `work/prompts.parquet`.
    """
    merged = merge_settings(TrainingJob, config.training)
    own = {**options(baseline), "prompts_per_step": config.grpo_prompts_per_step(baseline)}
    own |= {"verl_settings": config.verl_settings(baseline)}
    train_file = write_judged_rows(config, rows, work / "prompts.parquet")
    return grpo_job(config, train_file, work, name=baseline.kind, model_path=config.student, **merged | own)


def check_same_prompts(
    rows: Sequence[RoutedPrompt], merge_file: Path, what: str, in_order: bool = True
) -> None:
    """Raises ConfigError unless each domain's rows and the merge's, as far as both go, are the same; `what`
    is to be trained on them.

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
                f"{what}: the prompts of domain {domain!r} have changed since the merge's were "
                f"written ({merge_file}); restore them, or choose another --run-dir"
            )


def _agree(ours: Sequence[tuple], theirs: Sequence[tuple], in_order: bool) -> bool:
    """Whether the shorter of the two is part of the longer one, as its beginning if `in_order`."""
    if in_order:
        return all(own == other for own, other in zip(ours, theirs, strict=False))
    shorter, longer = sorted((ours, theirs), key=len)
    return not Counter(shorter) - Counter(longer)
