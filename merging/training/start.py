"""Where the student's weights begin: made once from the experts, and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.progress import say
from configs.training import ModelStart
from merging.baselines.weights import merge_weights
from merging.state.baseline_record import is_made, options
from merging.state.run_folder import RunFolder
from merging.training.start_distance import measure_start

if TYPE_CHECKING:
    from configs.schema import MergeConfig
    from merging.state.cluster import Cluster
    from merging.state.teacher import Teacher


def prepare_start(folder: RunFolder, teachers: Sequence[Teacher], cluster: Cluster) -> None:
    """The model that training begins at, and how far it is from the reference; once for a run."""
    make_start(folder, teachers)
    measure_start(folder, cluster)


def make_start(folder: RunFolder, teachers: Sequence[Teacher]) -> None:
    """Merges the experts' weights into `<run>/start`, if the config says so and it is not done yet."""
    block = folder.config.training.merged_start
    if block is None or is_made(block, folder.start):
        return
    with folder.measured.stage("start"):
        say(f"start: {start_text(folder.config)}")
        experts = [Path(teacher.folder) for teacher in teachers]
        merge_weights(block, Path(folder.config.student), experts, folder.start)


def start_text(config: MergeConfig) -> str:
    """What the student begins with, in words."""
    start, merged = config.training.start, config.training.merged_start
    if isinstance(start, ModelStart):
        return start.path
    if merged is None:
        return "the base student"
    how = ", ".join([merged.kind, *(f"{name} {value:g}" for name, value in options(merged).items())])
    return f"a merge of the experts' weights ({how})"


def start_notes(config: MergeConfig) -> list[str]:
    """What a reader of the report should know of it; nothing where training began at the base student."""
    if config.training.start.kind == "student":
        return []
    others = [f"`{baseline.kind}`" for baseline in config.distilled_baselines()]
    also = f"; so did {' and '.join(others)}" if others else ""
    return [f"the student's training began at {start_text(config)} (training.start){also}"]
