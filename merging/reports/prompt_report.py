"""What the report says of a run's prompts, and of the rows of each of its trainings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from eval.report.sections.polished import ControlUse, MoreUse, PolishUse
from eval.report.sections.prompts import PromptUse, TrainingRows
from merging.baselines.kinds import TRAINED
from merging.exopd.gap.shares import planned_rows, share_plans, validated_works
from merging.state.run_folder import RunFolder
from routing.trained_rows import check_file, trained_rows


def prompt_use(folder: RunFolder) -> PromptUse:
    """From a finished run's counts, metrics and training files."""
    counts = folder.counts()
    return PromptUse(
        prompts=counts["prompts"],
        # a run of an earlier version kept less
        shares=counts.get("shares", {}),
        dropped=counts.get("dropped", {}),
        conflicts=counts.get("conflicts") or {},
        overlaps=counts.get("overlaps", {}),
        trainings=tuple(_trainings(folder, merge_rows(folder))),
        share_range=counts.get("share_range"),
        planned_shares=tuple(share_plans(folder)),
    )


def merge_rows(folder: RunFolder) -> Mapping[str, int]:
    """Rows of each domain that the merge was to train on."""
    return _distilled_rows(folder, "merge") or folder.counts()["rows"]


def _distilled_rows(folder: RunFolder, stage: str) -> dict[str, int] | None:
    """The same of any training whose shares its validations plan; None for others."""
    work = validated_works(folder).get(stage)
    return None if work is None or folder.config.mixing.kind != "gap" else planned_rows(folder.config, work)


def _trainings(folder: RunFolder, planned: Mapping[str, int]) -> Iterator[TrainingRows]:
    yield _distilled(folder, "merge", "merge", planned, folder.config.training.steps)
    if (polish := folder.config.polish) is not None:
        yield _read_whole(folder, "polish", folder.polish_prompts, folder.polish_rows(), 1, polish.steps)
    for baseline in folder.config.trained_baselines():
        name, kind = baseline.kind, TRAINED[baseline.kind]
        title = f"baseline {name}"
        planned = _distilled_rows(folder, title) or kind.planned_rows(folder)
        if kind.rows_file is None:
            yield _distilled(folder, title, name, planned, kind.steps(folder.config))
        else:
            rows_per_prompt = kind.rows_per_prompt(folder.config)
            file, steps = folder.path / name / kind.rows_file, folder.config.training.steps
            yield _read_whole(folder, title, file, planned, rows_per_prompt, steps)
    for control in folder.controls():
        planned = {control.domain: control.steps * control.prompts_per_step}
        file = folder.works()[control.stage] / "prompts.parquet"
        yield _read_whole(folder, control.stage, file, planned, 1, control.steps)


def _distilled(
    folder: RunFolder, title: str, name: str, planned: Mapping[str, int], steps: int
) -> TrainingRows:
    lines, samples = folder.read_metrics(name), folder.config.training.samples_per_prompt
    lines = [line for line in lines if line["step"]]  # step 0 is a validation alone
    trained = trained_rows(lines, list(folder.config.domains), samples)
    return TrainingRows(title, planned, trained, steps, len(lines), "loss")


def _read_whole(
    folder: RunFolder, title: str, path: Path, planned: Mapping[str, int], rows_per_prompt: int, steps: int
) -> TrainingRows:
    """A training whose loss does not tell the domains apart, by the file that it read to its end."""
    if not path.exists():
        return TrainingRows(title, planned, {}, steps, 0, "file")
    rows = Counter(check_file(path, planned, rows_per_prompt))
    trained = {domain: rows[domain] // rows_per_prompt for domain in planned}
    return TrainingRows(title, planned, trained, steps, steps, "file")


def polish_use(folder: RunFolder) -> PolishUse | None:
    """The polish of a finished run and its controls; None without one."""
    config, rows = folder.config, folder.polish_rows()
    if (polish := config.polish) is None:
        return None
    return PolishUse(
        steps=polish.steps,
        learning_rate=polish.learning_rate,
        rollouts={domain: count * polish.samples_per_prompt for domain, count in rows.items()},
        left_out=[domain for domain in config.domains if domain not in rows],
        controls={
            control.domain: ControlUse(control.name, control.steps, control.rollouts)
            for control in folder.controls()
        },
        is_controlled=config.teacher_more() is not None,
        more=_more_use(folder),
    )


def _more_use(folder: RunFolder) -> MoreUse | None:
    """The baseline `opd_more` of a finished run; None where it is not declared."""
    config = folder.config
    if (baseline := config.opd_more()) is None:
        return None
    kind, samples = TRAINED[baseline.kind], config.training.samples_per_prompt
    rows = kind.planned_rows(folder)
    rollouts = {domain: count * samples for domain, count in rows.items()}
    return MoreUse(baseline.kind, kind.steps(config), rollouts)
