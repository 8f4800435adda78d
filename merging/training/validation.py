"""Validations of the merge and of its distilled baselines: the job's, the exported step, lines and words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.words import counted
from trainer.validation import BEST, Validated, Validation, best, last_step, read_validations, stopped_at

if TYPE_CHECKING:
    from configs.training import Training
    from merging.state.run_folder import RunFolder
    from trainer.job import TrainingJob


def asked_of(folder: RunFolder) -> Validation | None:
    """What the validations of a run's trainings ask; None where the config wants none."""
    import pyarrow.parquet

    training = folder.config.training
    if training.validate_every is None:
        return None
    rows = pyarrow.parquet.read_metadata(folder.validation_prompts).num_rows
    return Validation(
        prompts=folder.validation_prompts,
        every=training.validate_every,
        samples=training.validation_samples,
        seed=training.seed,
        rollouts=rows * (1 + training.validation_samples),
        keep_best=training.keep == "best",
        patience=training.patience,
    )


def export_kept(job: TrainingJob, target: Path) -> None:
    """Writes the weights that `training.keep` names to `target`: the best validation's, or the last."""
    from trainer.export import export, export_adapter, export_untrained

    start = Path(job.model_path)
    if job.validation is None or not job.validation.keep_best:
        export(job.checkpoints, last_step(job), start, target, job.lora)
        return
    chosen = best(read_validations(job.folder))
    assert chosen is not None, "a training that has ended was validated"
    if chosen.step:
        export(job.folder / BEST, chosen.step, start, target, job.lora)
    elif job.lora is None:
        export_untrained(start, target)
    else:
        assert job.lora.start is None, "validated trainings begin with a new adapter"
        export_adapter(job.checkpoints, last_step(job), start, target, job.lora, trained=False)


def with_validations(lines: Sequence[dict[str, float]], done: Sequence[Validated]) -> list[dict[str, float]]:
    """Lines of metrics with the fields of each step's validation; step 0 gets a line of its own."""
    merged = {line["step"]: line for line in lines}
    for one in done:
        merged[one.step] = merged.get(one.step, {"step": one.step}) | one.metrics()
    return [merged[step] for step in sorted(merged)]


def progress_text(done: Sequence[Validated]) -> str:
    """The last validation, and the best one, for a line of progress; empty without any."""
    if not done:
        return ""
    last, highest = done[-1], best(done)
    assert highest is not None
    n = sum(next(iter(own.values())).n for own in last.scores.values())
    said = f"validation after step {last.step}: {last.accuracy:.1%} (n = {counted(n, 'prompt')})"
    return said if highest is last else f"{said}, best {highest.accuracy:.1%} after step {highest.step}"


def validation_notes(folder: RunFolder) -> list[str]:
    """Which step's weights each distilled model has, and how accurate validations found them."""
    works = {"merge": ("student", folder.train)} | {
        f"baseline {each.kind}": (each.kind, folder.path / each.kind)
        for each in folder.config.distilled_baselines()
    }
    notes = []
    for title, (model, work) in works.items():
        if done := read_validations(work):
            notes.append(f"{title}: {_kept_sentence(folder.config.training, model, done)}")
    return notes


def _kept_sentence(training: Training, model: str, done: Sequence[Validated]) -> str:
    last, highest = done[-1], best(done)
    assert highest is not None
    kept = highest if training.keep == "best" else last
    by_patience = training.patience is not None and stopped_at(done, training.patience) is not None
    ended = f"; training ended at step {last.step} (training.patience: {training.patience})" * by_patience
    chosen = "" if training.keep == "last" else "; chosen by these prompts, it is the best of "
    chosen += counted(len(done), "validation") * bool(chosen)
    others = "" if kept is highest else f"; the highest was {highest.accuracy:.1%} after step {highest.step}"
    return (
        f"{model} has the weights after step {kept.step} of {training.steps} (training.keep: "
        f"{training.keep}), validation accuracy {kept.text()}{chosen}{others}{ended}"
    )
