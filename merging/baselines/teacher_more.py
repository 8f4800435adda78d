"""The control of the polish: each expert that was built here, trained on with the polish's rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.blocks.baselines import TeacherMoreBaseline
from configs.schema import MergeConfig
from merging.state.baseline_record import is_made, open_work, options, write_record
from merging.state.polished import Control, controls
from merging.training.polish import polish_job
from merging.training.rewarded import check_same_rewards, train_on_rewards
from routing.dataset import write_whole

if TYPE_CHECKING:
    from merging.state.cluster import Cluster
    from merging.state.run_folder import RunFolder
    from merging.state.teacher import Teacher


def train_teacher_more(
    folder: RunFolder, baseline: TeacherMoreBaseline, teachers: Sequence[Teacher], cluster: Cluster
) -> None:
    """Trains every expert that is not trained on yet, or continues, and exports the models.

    Raises ConfigError for rewards that are not the merge's, and common.errors.RunFailed.
    """
    polish, models = folder.config.polish, {teacher.domain: teacher for teacher in teachers}
    assert polish is not None, "the config is refused without"
    for control in controls(folder.config, folder.polish_rows()):
        target = folder.teacher_more(control.domain)
        if is_made(baseline, target):
            continue
        check_same_rewards(folder, f"baseline `{baseline.kind}`")
        with folder.measured.stage(control.stage):
            work = folder.works()[control.stage]
            open_work(baseline, work)
            job = polish_job(
                folder.config,
                polish,
                trained_on(folder.config, models[control.domain]),
                own_rows(folder.polish_prompts, control, work / "prompts.parquet"),
                work,
                **fields(control, baseline),
            )
            planned = {control.domain: control.steps * control.prompts_per_step}
            train_on_rewards(folder, job, planned, f"{control.stage} (GRPO)", cluster, target)
            # last: a model without a record counts as made by other options, and is exported again
            write_record(baseline, target)


def trained_on(config: MergeConfig, teacher: Teacher) -> Path:
    """The expert as it is trained on: a full model, or, where the polish trains an adapter, the adapter."""
    adapter = None if config.training.lora_rank is None else teacher.adapter_path
    return Path(teacher.folder if adapter is None else adapter)


def fields(control: Control, baseline: TeacherMoreBaseline) -> dict[str, str | int | float]:
    """What the job of a control has in place of the polish's."""
    return {
        "name": control.name,
        "steps": control.steps,
        "prompts_per_step": control.prompts_per_step,
        "max_response_tokens": control.response_tokens,
        **options(baseline),
    }


def own_rows(polish_prompts: Path, control: Control, target: Path) -> Path:
    """Writes the domain's rows of the polish in their order, from the first one again where a last step is
    not full; returns `target`."""
    import pyarrow.parquet as pq

    table = pq.read_table(polish_prompts)
    own = [i for i, name in enumerate(table.column("teacher").to_pylist()) if name == control.domain]
    wanted = control.steps * control.prompts_per_step
    return write_whole(table.take(list(itertools.islice(itertools.cycle(own), wanted))), target)
