"""The baselines that are trained. Adding one is a config type in `TrainedBaseline` and a row in `TRAINED`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import MergeConfig
from merging.baselines.grpo import planned_grpo, train_grpo
from merging.baselines.opd_more import further_schedule, planned_opd_more, train_opd_more
from merging.baselines.sft import train_sft
from merging.exopd.lambda_schedule import LambdaSchedule
from merging.state.cluster import Cluster
from merging.state.polished import steps_of_opd_more
from merging.state.run_folder import RunFolder
from merging.state.teacher import Teacher
from merging.training.alarms import schedule_of
from merging.training.distil import distil_baseline
from routing.kept import scheduled
from routing.routers.decisions import RoutedPrompt


@dataclass(frozen=True)
class Sources:
    """What a baseline may be trained from, beside the base student."""

    folder: RunFolder
    teachers: list[Teacher]
    routed: Sequence[RoutedPrompt]
    cluster: Cluster


@dataclass(frozen=True)
class TrainedKind:
    """What a run asks of a baseline that is trained; `Any` is the baseline's block."""

    train: Callable[[Any, Sources, Path], None]
    """Trains it in `<run>/<kind>/`, or continues, writes its metrics, and exports the model, its record last.
    Raises ConfigError and common.errors.RunFailed."""
    schedule: Callable[[Any, MergeConfig, Path], LambdaSchedule | None] = lambda block, config, run_dir: None
    """Lambda of its steps in the run of this folder; None where no teacher scores its rollouts."""
    steps: Callable[[MergeConfig], int] = lambda config: config.training.steps
    """How many it takes, each of the merge's rollouts."""
    needs_answers: bool = False
    """Whether rewards judge its answers, so that every prompt needs one to compare with."""
    rows_file: str | None = None
    """File of `<run>/<kind>/` that it reads to its end; None where the loss counts each domain's rows."""
    rows_per_prompt: Callable[[MergeConfig], int] = lambda config: 1
    """Rows of that file for each planned one."""
    planned_rows: Callable[[RunFolder], Mapping[str, int]] = lambda folder: folder.counts()["rows"]
    """Rows of each domain in its training; empty where they are not scheduled yet."""


def _grpo(block: Any, given: Sources, target: Path) -> None:
    config = given.folder.config
    rows = scheduled(config, given.routed, config.grpo_prompts_per_step(block))
    train_grpo(given.folder, block, rows, given.cluster, target)


DISTILLED = TrainedKind(
    lambda block, given, target: distil_baseline(given.folder, block, given.teachers, given.cluster, target),
    schedule=lambda block, config, run_dir: schedule_of(config, run_dir / block.kind, block.reward_scale),
)

TRAINED: dict[str, TrainedKind] = {
    "opd": DISTILLED,
    "interpolation": DISTILLED,
    "sft": TrainedKind(
        lambda block, given, target: train_sft(given.folder, block, given.teachers, given.cluster, target),
        rows_file="answers.parquet",
        rows_per_prompt=lambda config: config.training.samples_per_prompt,
    ),
    "grpo": TrainedKind(
        _grpo,
        needs_answers=True,
        rows_file="prompts.parquet",
        planned_rows=planned_grpo,
    ),
    "opd_more": TrainedKind(
        lambda block, given, target: train_opd_more(
            given.folder, block, given.teachers, given.routed, given.cluster, target
        ),
        schedule=further_schedule,
        steps=steps_of_opd_more,
        planned_rows=planned_opd_more,
    ),
}
"""By `kind`. Those in weight space are in `merging.baselines.weights.METHODS`."""
