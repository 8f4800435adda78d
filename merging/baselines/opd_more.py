"""The control of the polish that distils on: the distilled student, trained on by the merge's objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from common.files import write_json
from common.reading import read_json
from configs.blocks.baselines import OpdMoreBaseline
from configs.schema import MergeConfig
from configs.training import ModelStart
from merging.baselines.grpo import check_same_prompts
from merging.exopd.gap.shares import planned_rows
from merging.exopd.job import write_rows
from merging.state.baseline_record import open_work, options, write_record
from merging.state.chosen_scales import with_scales
from merging.state.polished import distilled_folder, steps_of_opd_more
from merging.state.run_folder import RunFolder
from merging.training.alarms import schedule_of
from merging.training.distil import Distillation, Rows
from routing.judged import can_be_judged
from routing.kept import scheduled_with_more
from routing.routers.decisions import RoutedPrompt

if TYPE_CHECKING:
    from merging.exopd.lambda_schedule import LambdaSchedule
    from merging.state.cluster import Cluster
    from merging.state.teacher import Teacher

KIND = "opd_more"
NOT_VALIDATED = {"validate_every": None, "keep": "last", "patience": None}
"""It takes just as many rollouts as the polish, which nothing validates either."""
ROWS, PLANNED = "rows.parquet", "planned.json"
"""Files of the training's folder: its rows, at the lambda that it begins with, and what is known of them."""


def train_opd_more(
    folder: RunFolder,
    baseline: OpdMoreBaseline,
    teachers: list[Teacher],
    routed: Sequence[RoutedPrompt],
    cluster: Cluster,
    target: Path,
) -> None:
    """Trains the distilled student on, or continues, and exports the model to `target`.

    Raises ConfigError for prompts that are not the merge's, and common.errors.RunFailed.
    """
    work = folder.path / baseline.kind
    open_work(baseline, work)
    further = replace(folder, config=further_config(baseline, folder.config, folder.path))
    rows = _rows(folder, further.config, routed, work)
    Distillation(further, teachers, baseline.kind, work, rows=rows).run(cluster, target)
    # last: a model without a record counts as made by other options, and is exported again
    write_record(baseline, target)


def further_config(baseline: OpdMoreBaseline, config: MergeConfig, run_dir: Path) -> MergeConfig:
    """The merge's config as its continuation has it: from the distilled student, at the lambdas that the
    merge ended with, for its own steps. A warm-up of the learning rate shrinks as the steps do."""
    steps, training = steps_of_opd_more(config), config.training
    changes = {
        "steps": steps,
        "start": ModelStart(kind="model", path=str(distilled_folder(run_dir, config))),
        "warmup_steps": training.warmup_steps * steps // training.steps,
        **NOT_VALIDATED,
        **options(baseline),
    }
    objective = config.objective.model_copy(update={"reward_scale_warmup_steps": 0})
    further = {"training": training.model_copy(update=changes), "objective": objective}
    ended = schedule_of(config, run_dir / "train").settled()
    return with_scales(config.model_copy(update=further), ended)


def further_schedule(baseline: OpdMoreBaseline, config: MergeConfig, run_dir: Path) -> LambdaSchedule:
    """Lambda of its steps, as its own alarms have left it."""
    return schedule_of(further_config(baseline, config, run_dir), run_dir / KIND)


def planned_opd_more(folder: RunFolder) -> dict[str, int]:
    """Rows of each domain in the training; empty where none was begun."""
    work = folder.path / KIND
    return _read_planned(work)["rows"] if (work / PLANNED).exists() else {}


class _Planned(TypedDict):
    rows: dict[str, int]
    """By domain."""
    all_answered: bool


def _read_planned(work: Path) -> _Planned:
    return read_json(work / PLANNED, _Planned, "the rows that are planned")


def _rows(folder: RunFolder, further: MergeConfig, routed: Sequence[RoutedPrompt], work: Path) -> Rows:
    """Its rows, written once, as those of the merge are."""
    if not (work / PLANNED).exists():
        rows = _next_rows(folder, routed)
        write_rows(further, rows, work / ROWS)
        judged = all(can_be_judged(row, further.domains[row.domain].reward) for row in rows)
        # last: it says that the rows are written
        record = _Planned(rows=dict(Counter(row.domain for row in rows)), all_answered=judged)
        write_json(work / PLANNED, record)
    planned = _read_planned(work)
    return Rows(work / ROWS, planned["rows"], planned["all_answered"])


def _next_rows(folder: RunFolder, routed: Sequence[RoutedPrompt]) -> list[RoutedPrompt]:
    """What a longer merge would have read next. Raises ConfigError where the merge read other prompts."""
    config = folder.config
    read = planned_rows(config, folder.train) if config.mixing.kind == "gap" else None
    first, more = scheduled_with_more(config, routed, steps_of_opd_more(config), read)
    in_order = not config.mixing.order.sorts
    check_same_prompts(first, folder.prompts_file, f"baseline `{KIND}`", in_order)
    return more
