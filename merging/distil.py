"""One distillation, the merge's or a baseline's: trained, watched, exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.baselines import DistilledBaseline
from merging.alarms import Alarm, AlarmLog, raised
from merging.progress import bar, merge_text, say
from merging.run_folder import RunFolder
from merging.weights import open_work, write_record
from trainer.errors import TrainingHalted

if TYPE_CHECKING:
    from merging.cluster import Cluster
    from merging.run import Teacher


class _BackOff(TrainingHalted):
    """Ends the training so that it goes on from its last checkpoint with lambda 1 for the alarm's domain."""

    def __init__(self, alarm: Alarm):
        super().__init__(alarm.sentence)
        self.alarm = alarm


@dataclass
class Distillation:
    """The training called `name` from the base student on the merge's rows, with its work in `work`.

    `reward_scale` is the lambda of all rows where it is not the config's.
    """

    folder: RunFolder
    teachers: list[Teacher]
    name: str
    work: Path
    reward_scale: float | None = None

    def run(self, cluster: Cluster, target: Path) -> None:
        """Trains to the end, or continues, and exports the model to `target`."""
        from trainer.export import export

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
        export(job.checkpoints, job.steps, Path(self.folder.config.student), target)

    def reward_scale_at(self, domain: str, step: int) -> float:
        """Lambda of the domain's rows in a step, alarms considered."""
        one_from = self.log.one_from(domain)
        if one_from is not None and step >= one_from:
            return 1.0
        if self.reward_scale is not None:
            return self.reward_scale
        return self.folder.config.reward_scale_at(domain, step)

    def _job(self):
        from merging.exopd import merge_job
        from routing.dataset import with_reward_scales

        config, prompts = self.folder.config, self.folder.prompts_file
        backed_off = any(self.log.one_from(domain) is not None for domain in config.domains)
        if backed_off or self.reward_scale is not None:
            merge_prompts, prompts = prompts, self.work / "prompts.parquet"
            with_reward_scales(merge_prompts, prompts, config.training.prompts_per_step, self.reward_scale_at)
        paths = {teacher.domain: teacher.model_path for teacher in self.teachers}
        adapters = {t.domain: t.adapter_path for t in self.teachers if t.adapter_path is not None}
        return merge_job(config, self.name, paths, prompts, self.work, adapters)

    def _train(self, job, cluster: Cluster) -> None:
        from merging.metrics import check_start
        from trainer.run import last_checkpoint, train

        config = self.folder.config
        referred = [name for name in config.domains if config.reference_of(name) == config.student]
        lines = {line["step"]: line for line in self._lines()}

        def on_step(step: int, raw: dict[str, float]) -> None:
            line = self._line(step, raw)
            check_start(line, config.objective.largest_start_difference, referred)
            shown.update(step, merge_text(line))
            lines[step] = line
            self._watch([lines[number] for number in sorted(lines) if number <= step])

        done = last_checkpoint(job.checkpoints)
        with bar(f"{self.name} (lambda {self._scales_text()})", job.steps, done) as shown:
            train(job, cluster(), on_step)

    def _watch(self, lines: list[dict[str, float]]) -> None:
        settings = self.folder.config.objective.alarms
        for domain in self.folder.config.domains:
            for alarm in self.log.new(raised(lines, settings, domain)):
                # the last step has none after it
                lowers = alarm.step < self.folder.config.training.steps
                lowers = lowers and self.reward_scale_at(domain, alarm.step) > 1
                if settings.action == "back_off" and lowers:
                    raise _BackOff(alarm)
                say(f"alarm: {self.log.add(alarm).sentence}")
                if settings.action == "stop":
                    raise TrainingHalted(f"{alarm.sentence} (objective.alarms.action: stop)")

    def _check_rows(self, job) -> None:
        from merging.trained_rows import check_trained

        training, planned = self.folder.config.training, self.folder.counts()["rows"]
        check_trained(
            job.train_file, planned, self._lines(), training.prompts_per_step, training.samples_per_prompt
        )

    def _back_off(self, alarm: Alarm, job) -> None:
        from trainer.run import last_checkpoint

        kept = self.log.add(alarm, one_from=last_checkpoint(job.checkpoints) + 1)
        say(f"alarm: {kept.sentence}")

    def _lines(self) -> list[dict[str, float]]:
        from trainer.run import read_metrics

        return [self._line(row["step"], row) for row in read_metrics(self.work)]

    def _line(self, step: int, raw: dict[str, float]) -> dict[str, float]:
        from merging.metrics import step_metrics

        scales = {domain: self.reward_scale_at(domain, step) for domain in self.folder.config.domains}
        return step_metrics(step, raw, scales)

    def _kept_lines(self) -> list[dict[str, float]]:
        """All steps; without the task reward where rows without an answer count 0 in verl's mean."""
        lines = self._lines()
        if self.folder.counts()["all_answered"]:
            return lines
        return [{key: value for key, value in line.items() if key != "task_reward"} for line in lines]

    def _scales_text(self) -> str:
        config = self.folder.config
        last = config.training.steps + config.objective.reward_scale_warmup_steps + 1
        scales = {domain: self.reward_scale_at(domain, last) for domain in config.domains}
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
    Distillation(folder, teachers, baseline.kind, work, baseline.reward_scale).run(cluster, target)
    # last: a model without a record counts as made by other options, and is exported again
    write_record(baseline, target)
