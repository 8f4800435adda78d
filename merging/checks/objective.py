"""Whether the merge's start and objective make sense for its models and its lambda."""

from __future__ import annotations

from common.errors import ConfigError
from configs.training import ModelStart
from merging.checks.found import Preflight, needs_student
from merging.checks.models import experts_of_other_shape
from merging.exopd.lambda_schedule import read_by_trainings
from merging.exopd.names import START


def clipping(found: Preflight) -> None:
    """Refuses a clipped log-ratio where no step reads both teacher and reference."""
    clip, merge = found.config.objective.clip_log_ratio, read_by_trainings(found.config)[0]
    if clip is not None and not {*merge.teachers} & {*merge.references}:
        raise ConfigError(
            f"objective.clip_log_ratio: {clip:g} clips T - B, and at lambda 0 and 1 only one of them is "
            "read; leave it out, or choose another objective.reward_scale"
        )


@needs_student
def start(found: Preflight) -> None:
    """Refuses a start whose tensors are not the student's, and experts that cannot be merged into one."""
    config, student = found.config, found.fingerprints["student"]
    declared, merged = config.training.start, config.training.merged_start
    if isinstance(declared, ModelStart) and START in found.fingerprints:
        model = found.fingerprints[START]
        if None in (model.shapes_sha256, student.shapes_sha256):
            raise ConfigError(
                f"training.start ({model.path}): its tensors cannot be compared with the student's without "
                "safetensors files of both; give such, or start at another model"
            )
        if model.shapes_sha256 != student.shapes_sha256:
            raise ConfigError(
                f"training.start ({model.path}): has other tensors than the student ({student.path}); give a "
                "model of the student's shape, or name this one as `student` (and the other as "
                "objective.reference)"
            )
    for place, model in experts_of_other_shape(found) if merged else ():
        raise ConfigError(
            f"training.start: {declared.kind} needs experts of the student's shape, and {place} "
            f"({model.path}) has other tensors; start at `student`, or at a model of its shape"
        )
