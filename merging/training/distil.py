"""One distillation, the merge's or a baseline's: trained, watched, exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import TrainingHalted
from common.progress import bar, say
from configs.blocks.baselines import DistilledBaseline
from merging.exopd.gap.shares import Reading, next_shares_text, planned_rows, with_shares, write_read_rows
from merging.exopd.lambda_schedule import LambdaSchedule
from merging.state.baseline_record import open_work, write_record
from merging.state.run_folder import RunFolder
from merging.state.served import read_facts
from merging.training.alarms import Alarm, AlarmLog, backed_off, raised
from merging.training.metrics import merge_text
from merging.training.start import prepare_start
from merging.training.start_distance import expected_distances
from merging.training.validation import asked_of, export_kept, progress_text, with_validations
from routing.gap import GapBudget
from trainer.validation import Validated, read_validations

if TYPE_CHECKING:
    from merging.state.cluster import Cluster
    from merging.state.teacher import Teacher
    from trainer.job import TrainingJob


READ_ROWS = "rows.parquet"
"""File of the training's folder with its rows, where they were decided while it trained."""


class _BackOff(TrainingHalted):
    """Ends the training so that it goes on from its last checkpoint with lambda 1 for the alarm's domain."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(alarm.sentence)
        self.alarm = alarm


@dataclass(frozen=True)
class Rows:
    """What a distillation reads."""

    file: Path
    planned: Mapping[str, int]
    """By domain."""
    all_answered: bool
    """Whether the reward of its domain can judge the answers to each."""


@dataclass
class Distillation:
    """The training called `name` from the folder's start on the merge's rows, with its work in `work`.

    `reward_scale` is the lambda of all rows where it is not the config's. `rows` are others than the merge's,
    of a training that goes on from its end.
    """

    folder: RunFolder
    teachers: list[Teacher]
    name: str
    work: Path
    reward_scale: float | None = None
    rows: Rows | None = None

    def run(self, cluster: Cluster, target: Path) -> None:
        """Trains to the end, or continues, and exports the model to `target`."""
        self.log = AlarmLog(self.work)
        while True:
            job = self._job()
            try:
                self._train(job, cluster)
                break
            except _BackOff as stopped:
                cluster.close()  # verl's placement groups keep the devices of a training that was ended
                self._back_off(stopped.alarm, job)
        self._check_rows(job)
        self.folder.write_metrics(self.name, self._kept_lines())
        export_kept(job, target)

    @property
    def schedule(self) -> LambdaSchedule:
        """Lambda of every step, as the alarms have left it."""
        return LambdaSchedule.of(self.folder.config, self.reward_scale, backed_off(self.log.alarms))

    @property
    def _read(self) -> Rows:
        if self.rows is not None:
            return self.rows
        counts = self.folder.counts()
        return Rows(self.folder.prompts_file, counts["rows"], counts.get("all_answered", False))

    @property
    def _reading(self) -> Reading | None:
        """How the rows are read where the domains' shares are decided while it trains."""
        budget = GapBudget.of(self.folder.config) if self.rows is None else None
        if budget is None:
            return None
        return Reading(budget, self.folder.config.training.seed, self.schedule, self.work)

    def _job(self) -> TrainingJob:
        from merging.exopd.job import merge_job
        from routing.dataset import with_reward_scales

        config, prompts, reading = self.folder.config, self._read.file, self._reading
        if reading is not None:
            prompts = self.folder.pool
        elif self.schedule.one_from or self.reward_scale is not None:
            declared, prompts = prompts, self.work / "prompts.parquet"
            scales = partial(self.schedule.of_rows, prompts_per_step=config.training.prompts_per_step)
            with_reward_scales(declared, prompts, scales)
        paths = {t.domain: t.model_path for t in self.teachers if t.model_path is not None}
        adapters = {t.domain: t.adapter_path for t in self.teachers if t.adapter_path is not None}
        served = read_facts(self.folder.path)
        return merge_job(
            config,
            self.name,
            paths,
            prompts,
            self.work,
            adapters,
            self.schedule,
            served,
            self.folder.start,
            asked_of(self.folder),
            reading and reading.to_json(),
        )

    def _train(self, job: TrainingJob, cluster: Cluster) -> None:
        from merging.training.metrics import check_start, not_compared
        from trainer.run import last_checkpoint, train

        config = self.folder.config
        # where the merge ended, its distance from the reference was not measured on its own
        apart = expected_distances(self.folder.path) if self.rows is None else {}
        same = [name for name in config.domains if config.starts_from(config.reference_of(name))]
        lines = {line["step"]: line for line in self._lines()}

        def on_step(step: int, raw: dict[str, float]) -> None:
            line = self._line(step, raw)
            before = (lines[number] for number in lines if number < step)
            left = not_compared(before, [*same, *apart])
            check_start(line, config.objective.largest_start_difference, left, apart)
            shown.update(step, "; ".join(filter(None, [merge_text(line), progress_text(validated)])))
            lines[step] = line
            self._watch([lines[number] for number in sorted(lines) if number <= step])

        def on_validation(found: Validated) -> None:
            validated.append(found)
            follows = next_shares_text(config, found.by_domain) if found.step < job.steps else ""
            say(f"{self.name}: validation after step {found.step}: {found.text()}{follows}")

        done, validated = last_checkpoint(job.checkpoints), read_validations(self.work)
        with bar(f"{self.name} (lambda {self._scales_text()})", job.steps, done) as shown:
            train(job, cluster(), on_step, on_validation)

    def _watch(self, lines: list[dict[str, float]]) -> None:
        settings = self.folder.config.objective.alarms
        for domain in self.folder.config.domains:
            for alarm in self.log.new(raised(lines, settings, domain), settings.window):
                # the last step has none after it
                lowers = alarm.step < self.folder.config.training.steps
                lowers = lowers and self.schedule.at(domain, alarm.step) > 1
                if settings.action == "back_off" and lowers:
                    raise _BackOff(alarm)
                say(f"alarm: {self.log.add(alarm).sentence}")
                if settings.action == "stop":
                    raise TrainingHalted(f"{alarm.sentence} (objective.alarms.action: stop)")

    def _check_rows(self, job: TrainingJob) -> None:
        from routing.trained_rows import check_trained

        training, planned, file = self.folder.config.training, self._read.planned, job.train_file
        if (reading := self._reading) is not None:
            planned, file = planned_rows(self.folder.config, self.work), self.work / READ_ROWS
            write_read_rows(reading, self.folder.pool, sum(planned.values()), file)
        check_trained(file, planned, self._lines(), training.prompts_per_step, training.samples_per_prompt)

    def _back_off(self, alarm: Alarm, job: TrainingJob) -> None:
        from trainer.run import last_checkpoint

        kept = self.log.add(alarm, one_from=last_checkpoint(job.checkpoints) + 1)
        say(f"alarm: {kept.sentence}")

    def _lines(self) -> list[dict[str, float]]:
        from trainer.run import read_metrics

        return [self._line(row["step"], row) for row in read_metrics(self.work)]

    def _line(self, step: int, raw: dict[str, float]) -> dict[str, float]:
        from merging.training.metrics import step_metrics

        return step_metrics(step, raw, self.schedule.in_step(step))

    def _kept_lines(self) -> list[dict[str, float]]:
        """All steps and validations; without the task reward where rows without an answer count 0 in verl's
        mean."""
        lines = self._lines()
        if self._reading is not None:
            lines = with_shares(self.folder.config, self.work, lines)
        lines = with_validations(lines, read_validations(self.work))
        if self._read.all_answered:
            return lines
        return [{key: value for key, value in line.items() if key != "task_reward"} for line in lines]

    def _scales_text(self) -> str:
        scales = self.schedule.settled()
        values = set(scales.values())
        return f"{values.pop():g}" if len(values) == 1 else ", ".join(f"{d} {v:g}" for d, v in scales.items())


def distil_baseline(
    folder: RunFolder,
    baseline: DistilledBaseline,
    teachers: list[Teacher],
    cluster: Cluster,
    target: Path,
) -> None:
    """Trains the merge again at the baseline's lambda, or continues, and exports the model to `target`."""
    work = folder.path / baseline.kind
    open_work(baseline, work)
    prepare_start(folder, teachers, cluster)
    Distillation(folder, teachers, baseline.kind, work, baseline.reward_scale).run(cluster, target)
    # last: a model without a record counts as made by other options, and is exported again
    write_record(baseline, target)
