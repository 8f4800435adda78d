"""The stages of a run, in its order, with what is left of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.schema import MergeConfig
from merging.baselines.kinds import TRAINED
from merging.checks.found import Preflight
from merging.exopd.lambda_schedule import LambdaSchedule, models_read
from merging.state.baseline_record import is_made
from merging.state.chosen_scales import probe_file
from merging.state.planned import PlannedStage, progress
from merging.state.polished import STUDENT, Control, controls, distilled_folder
from merging.training.alarms import schedule_of
from teachers.registry.opening import open_registry
from trainer.run import last_checkpoint
from trainer.validation import due_steps, read_validations


def stages_left(
    config: MergeConfig,
    found: Preflight,
    run_dir: Path,
    automatic: Sequence[str],
    polished: Mapping[str, int] | None = None,
) -> list[PlannedStage]:
    """All stages; `automatic` are the domains whose lambda a probe has yet to choose, `polished` the rows of
    each domain in the polish."""
    registry = open_registry(config.registry)
    return [
        *(expert.planned(registry) for expert in found.experts(config).values()),
        *_probe_stages(automatic, run_dir),
        *_start_stages(config, run_dir),
        *_training_stages(config, found, run_dir),
        *(_control_stage(control, config, run_dir) for control in controls(config, polished or {})),
        *_last_stages(config, run_dir),
    ]


def passes(reward_scale: float) -> int:
    """Forward passes that score one rollout."""
    return len(models_read(reward_scale, "teacher", "reference"))


def validation_rollouts(config: MergeConfig, found: Preflight) -> int:
    """Answers of one validation: to each prompt one greedy answer, and some at temperature 1."""
    return len(found.validation.rows) * (1 + config.training.validation_samples)


def _validations_left(config: MergeConfig, work: Path) -> int:
    """Of a distillation in this folder."""
    training = config.training
    if training.validate_every is None:
        return 0
    done = {one.step for one in read_validations(work)}
    return len(set(due_steps(training.validate_every, training.steps)) - done)


def _probe_stages(automatic: Sequence[str], run_dir: Path) -> list[PlannedStage]:
    if automatic:
        return [PlannedStage("probe", "to do")]
    return [PlannedStage("probe", "done")] if probe_file(run_dir).exists() else []


def _start_stages(config: MergeConfig, run_dir: Path) -> list[PlannedStage]:
    block = config.training.merged_start
    if block is None:
        return []
    done = (run_dir / "student").exists() or is_made(block, run_dir / "start")
    return [PlannedStage("start", "done" if done else "to do")]


def _training_stages(config: MergeConfig, found: Preflight, run_dir: Path) -> list[PlannedStage]:
    done = last_checkpoint(run_dir / "train" / "checkpoints")
    made = distilled_folder(run_dir, config).exists()
    schedule = schedule_of(config, run_dir / "train")
    merge = _training_stage(config, "merge", made, done, config.training.steps, schedule)
    stages = [_validated(merge, config, found, run_dir / "train")]
    if (polish := config.polish) is not None:
        rollouts = polish.prompts_per_step * polish.samples_per_prompt
        done = last_checkpoint(run_dir / "polish" / "checkpoints")
        stages.append(_judged_stage("polish", (run_dir / STUDENT).exists(), done, polish.steps, rollouts))
    for baseline in config.trained_baselines():
        made = is_made(baseline, run_dir / "baselines" / baseline.kind)
        # a training by other options is not continued
        work = run_dir / baseline.kind
        done = last_checkpoint(work / "checkpoints") if is_made(baseline, work) else 0
        kind = TRAINED[baseline.kind]
        steps, schedule = kind.steps(config), kind.schedule(baseline, config, run_dir)
        stage = _training_stage(config, f"baseline {baseline.kind}", made, done, steps, schedule)
        is_distilled = baseline in config.distilled_baselines()
        stages.append(_validated(stage, config, found, work) if is_distilled else stage)
    return stages


def _validated(stage: PlannedStage, config: MergeConfig, found: Preflight, work: Path) -> PlannedStage:
    """A distillation with the validations that it has left."""
    if not stage.is_left:
        return stage
    left = _validations_left(config, work)
    rollouts = stage.rollouts + left * validation_rollouts(config, found)
    return replace(stage, rollouts=rollouts, validations=left)


def _training_stage(
    config: MergeConfig, title: str, made: bool, done: int, steps: int, schedule: LambdaSchedule | None
) -> PlannedStage:
    """A training of the student by `steps` of the merge's rollouts, of which `done` are behind it.

    `schedule` is None where no teacher scores the rollouts.
    """
    if made:
        return PlannedStage(title, "done")
    training = config.training
    left = steps - done
    rollouts = left * training.prompts_per_step * training.samples_per_prompt
    scored = round(rollouts * _passes_per_rollout(schedule, done, steps)) if schedule else 0
    return PlannedStage(title, progress(done), left, rollouts, scored)


def _control_stage(control: Control, config: MergeConfig, run_dir: Path) -> PlannedStage:
    baseline = config.teacher_more()
    assert baseline is not None, "it has no controls without"
    work = run_dir / baseline.kind / control.domain
    made = is_made(baseline, run_dir / "baselines" / baseline.kind / control.domain)
    done = last_checkpoint(work / "checkpoints") if is_made(baseline, work) else 0
    rollouts = control.prompts_per_step * control.samples_per_prompt
    return _judged_stage(control.stage, made, done, control.steps, rollouts)


def _judged_stage(title: str, made: bool, done: int, steps: int, rollouts: int) -> PlannedStage:
    """A training of so many steps and rollouts a step, which rewards judge."""
    if made:
        return PlannedStage(title, "done")
    return PlannedStage(title, progress(done), steps - done, (steps - done) * rollouts)


def _passes_per_rollout(schedule: LambdaSchedule, done: int, steps: int) -> float:
    """Mean over the steps that are left."""
    each = [passes(s) for step in range(done + 1, steps + 1) for s in schedule.in_step(step).values()]
    return sum(each) / len(each) if each else 0.0


def _last_stages(config: MergeConfig, run_dir: Path) -> list[PlannedStage]:
    stages = []
    for baseline in config.weight_baselines():
        done = is_made(baseline, run_dir / "baselines" / baseline.kind)
        stages.append(PlannedStage(f"baseline {baseline.kind}", "done" if done else "to do"))
    complete = "done" if (run_dir / "manifest.json").exists() else "to do"
    return [*stages, PlannedStage("evaluation", complete), PlannedStage("report", complete)]
