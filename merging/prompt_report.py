"""What the report says of a run's prompts, and of the rows of each of its trainings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from configs.baselines import DistilledBaseline, GrpoBaseline, SftBaseline
from merging.grpo import planned_grpo
from merging.trained_rows import check_file, trained_rows

if TYPE_CHECKING:
    from eval.report.prompts import PromptUse, TrainingRows
    from merging.run_folder import RunFolder


def prompt_use(folder: RunFolder) -> PromptUse:
    """From a finished run's counts, metrics and training files."""
    from eval.report.prompts import PromptUse

    counts = folder.counts()
    return PromptUse(
        prompts=counts["prompts"],
        # a run of an earlier version kept less
        shares=counts.get("shares", {}),
        dropped=counts.get("dropped", {}),
        conflicts=counts.get("conflicts") or {},
        overlaps=counts.get("overlaps", {}),
        trainings=tuple(_trainings(folder, counts["rows"])),
    )


def _trainings(folder: RunFolder, planned: Mapping[str, int]) -> Iterator[TrainingRows]:
    yield _distilled(folder, "merge", "merge", planned)
    for baseline in folder.config.trained_baselines():
        title = f"baseline {baseline.kind}"
        if isinstance(baseline, DistilledBaseline):
            yield _distilled(folder, title, baseline.kind, planned)
        elif isinstance(baseline, SftBaseline):
            samples = folder.config.training.samples_per_prompt
            yield _read_whole(folder, title, "sft/answers.parquet", planned, samples)
        elif isinstance(baseline, GrpoBaseline):
            yield _read_whole(folder, title, "grpo/prompts.parquet", planned_grpo(folder))


def _distilled(folder: RunFolder, title: str, name: str, planned: Mapping[str, int]) -> TrainingRows:
    from eval.report.prompts import TrainingRows

    lines, samples = folder.read_metrics(name), folder.config.training.samples_per_prompt
    trained = trained_rows(lines, list(folder.config.domains), samples)
    return TrainingRows(title, planned, trained, folder.config.training.steps, len(lines), "loss")


def _read_whole(
    folder: RunFolder, title: str, file: str, planned: Mapping[str, int], rows_per_prompt: int = 1
) -> TrainingRows:
    """A training whose loss does not tell the domains apart, by the file that it read to its end."""
    from eval.report.prompts import TrainingRows

    steps, path = folder.config.training.steps, folder.path / file
    if not path.exists():
        return TrainingRows(title, planned, {}, steps, 0, "file")
    rows = Counter(check_file(path, planned, rows_per_prompt))
    trained = {domain: rows[domain] // rows_per_prompt for domain in planned}
    return TrainingRows(title, planned, trained, steps, steps, "file")
