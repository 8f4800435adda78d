"""Validations of a merge: its job, which weights become the student, what is told, planned and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from configs.load import load_config
from eval.report.sections.curves import panels
from merging.exopd.job import merge_job
from merging.planning.memory import disk_parts
from merging.planning.plan import make_plan
from merging.reports.prompt_report import prompt_use
from merging.reports.reporting import curves, notes
from merging.training.distil import Distillation
from merging.training.validation import asked_of, progress_text, with_validations
from tests.helpers.messages import refuses, says
from tests.helpers.model_copies import noisy_copy, weights_of
from tests.helpers.opened_runs import expert_beside_model, open_run
from tests.helpers.paths import STUDENT
from tests.helpers.stand_in_trainers import StageTrainer
from tests.helpers.tiny_model import write_jsonl
from tests.helpers.validations import validated
from tests.helpers.verl_checkpoints import write_checkpoint
from trainer.run import last_checkpoint
from trainer.validation import OWN_SYNC_MODE, keep_best, remember

ON = ("training.validate_every=1", "training.validation_samples=3")


@pytest.fixture
def opened(tmp_path):
    """Opens a run of two models whose domain `math` has three validation prompts, with these overrides."""
    noisy_copy(tmp_path / "math_expert", seed=1)
    config = expert_beside_model(tmp_path, {"kind": "model", "path": "./math_expert"})
    rows = [{"prompt": f"90{n}+1", "answer": f"90{n + 1}"} for n in range(3)]
    path = write_jsonl(tmp_path / "valid.jsonl", rows)
    config["domains"]["math"]["validation"] = {"kind": "file", "path": str(path)}

    def opened(*overrides, run="run"):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        return open_run(load_config(file, ["baselines=[]", *overrides]), tmp_path / run)

    return opened


class Trainer(StageTrainer):
    """Stands in for verl: step n adds n to all weights, and these are the accuracies after each step."""

    def __init__(self, *accuracies: float) -> None:
        super().__init__()
        self.accuracies, self.told = accuracies, []

    def __call__(self, job, cluster, on_step, on_validation):
        self.jobs.append(job)
        job.folder.mkdir(parents=True, exist_ok=True)
        weights = weights_of(Path(job.model_path))
        for step in range(last_checkpoint(job.checkpoints), job.steps + 1):
            if step:
                raw = {f"actor/teacher/{d}/sequences": 2.0 for d in ("math", "code")}
                write_checkpoint(
                    job.checkpoints, step, [{n: torch.from_numpy(v) + step for n, v in weights.items()}]
                )
                with (job.folder / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step, "time": 1.0, **raw}) + "\n")
                on_step(step, raw)
            if job.validation is not None:
                found = validated(step, self.accuracies[step])
                remember(job.folder, found)
                on_validation(found)
                if job.validation.keep_best:
                    keep_best(job.folder, job.checkpoints)


def merged(run, monkeypatch, trainer, name="merge"):
    monkeypatch.setattr("trainer.run.train", trainer)
    monkeypatch.setattr("routing.trained_rows.check_trained", lambda *_: None)
    work = run.folder.train if name == "merge" else run.folder.path / name
    Distillation(run.folder, run.teachers(), name, work).run(lambda: None, run.folder.student)
    return trainer.jobs[-1]


def moved(folder: Path) -> float:
    """What was added to all of the student's weights."""
    base, found = weights_of(STUDENT), weights_of(folder)
    (added,) = {round(float(np.mean(found[name] - base[name])), 3) for name in found}
    return added


# --------------------------------------------------------------------------------------------- the job


def test_the_job_asks_the_written_prompts(opened):
    run = opened(*ON, "training.keep=best", "training.patience=2").written()
    asked = asked_of(run.folder)
    assert asked is not None and asked.prompts == run.folder.validation_prompts
    assert (asked.every, asked.samples, asked.rollouts, asked.keep_best, asked.patience) == (
        1,
        3,
        12,
        True,
        2,
    )
    import pyarrow.parquet as pq

    rows = pq.read_table(asked.prompts).to_pylist()
    assert [row["prompt"][0]["content"] for row in rows] == ["900+1", "901+1", "902+1"]
    assert {(row["data_source"], row["extra_info"]["reward"]) for row in rows} == {("math", "exact")}


def test_by_default_no_job_validates_and_nothing_is_written(opened, monkeypatch):
    run = opened().written()
    trainer = Trainer()
    monkeypatch.setattr("trainer.run.train", trainer)
    assert asked_of(run.folder) is None and not run.folder.validation_prompts.exists()
    assert merged(run, monkeypatch, trainer).validation is None and moved(run.folder.student) == 2.0


def test_without_validations_the_pool_is_trained_by_verls_own_trainer(opened):
    def mode(*overrides):
        config = opened("scorer.kind=pool", *overrides).folder.config
        job = merge_job(config, "merge", {"math": "m", "code": "c"}, Path("t"), Path("w"))
        return job.verl_overrides.get("trainer.v1.trainer_mode", "sync"), job.imports

    assert mode() == ("sync", ())


def test_with_validations_the_pool_is_trained_by_one_of_ours(opened):
    config = opened("scorer.kind=pool", *ON).folder.config
    job = merge_job(config, "merge", {"math": "m", "code": "c"}, Path("t"), Path("w"))
    assert job.verl_overrides["trainer.v1.trainer_mode"] == OWN_SYNC_MODE
    assert job.imports == ("trainer.within.own_mode",)


# ----------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    "accuracies, keep, expected",
    [
        ((0.1, 0.3, 0.2), "best", 1.0),
        ((0.1, 0.3, 0.2), "last", 2.0),
        ((0.1, 0.2, 0.2), "best", 1.0),
        ((0.1, 0.2, 0.3), "best", 2.0),
        ((0.3, 0.2, 0.1), "best", 0.0),
    ],
)
def test_the_student_has_the_weights_that_the_config_names(opened, monkeypatch, accuracies, keep, expected):
    run = opened(*ON, f"training.keep={keep}").written()
    merged(run, monkeypatch, Trainer(*accuracies))
    assert moved(run.folder.student) == expected


def test_a_baseline_that_is_distilled_is_validated_too(opened, monkeypatch):
    run = opened(*ON, "training.keep=best", "baselines=[opd]").written()
    job = merged(run, monkeypatch, Trainer(0.1, 0.3, 0.2), name="opd")
    assert job.validation == asked_of(run.folder) and moved(run.folder.student) == 1.0
    (note,) = [note for note in notes(run.folder) if "training.keep" in note]
    says(note, "baseline opd", "after step 1 of 2", "30.0%")


# ------------------------------------------------------------------------------------------ what is told


def test_metrics_report_and_notes_tell_of_every_validation(opened, monkeypatch):
    told = []
    monkeypatch.setattr("merging.training.distil.say", told.append)
    run = opened(*ON, "training.keep=best").written()
    merged(run, monkeypatch, Trainer(0.1, 0.3, 0.2))
    lines = run.folder.read_metrics("merge")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert [line["validation/math/greedy"] for line in lines] == [0.1, 0.3, 0.2]
    assert all(line["validation/math/sampled/n"] == 4 for line in lines)
    (use,) = prompt_use(run.folder).trainings
    assert use.measured_steps == 2, "the validation before step 1 is no step"
    shown = {panel.key: panel for panel in panels(curves(run.folder, []))}
    math, code = shown["merge-validation-greedy"].series
    assert (math.label, math.steps, math.values) == ("math, n = 4 prompts", (0, 1, 2), (0.1, 0.3, 0.2))
    assert code.domain == "code" and "merge-validation-sampled" in shown
    (note,) = [note for note in notes(run.folder) if "training.keep" in note]
    says(note, "student", "after step 1 of 2", "mean 30.0%", "n = 4 prompts", "best of 3 validations")
    says(told[1], "validation after step 1: mean 30.0%", "n = 4 prompts")


def test_notes_of_the_last_weights_name_a_higher_one(opened, monkeypatch):
    run = opened(*ON).written()
    merged(run, monkeypatch, Trainer(0.1, 0.3, 0.2))
    (note,) = [note for note in notes(run.folder) if "training.keep" in note]
    says(note, "after step 2 of 2", "mean 20.0%", "the highest was 30.0% after step 1")


def test_notes_say_where_patience_ended_the_training(opened):
    run = opened(*ON, "training.patience=1", "training.steps=5").written()
    run.folder.train.mkdir()
    for step, accuracy in enumerate((0.3, 0.2)):
        remember(run.folder.train, validated(step, accuracy))
    (note,) = [note for note in notes(run.folder) if "training.keep" in note]
    says(note, "after step 1 of 5", "ended at step 1", "training.patience: 1")


def test_the_line_of_progress_has_the_last_and_the_best():
    done = [validated(0, 0.1), validated(2, 0.3)]
    says(progress_text(done), "step 2", "30.0%", "n = 8 prompts", absent=["best"])
    says(progress_text([*done, validated(4, 0.2)]), "step 4", "20.0%", "best 30.0% after step 2")
    assert progress_text([]) == "" and with_validations([{"step": 1}], []) == [{"step": 1}]


# --------------------------------------------------------------------------------------- plan and folder


def test_the_plan_counts_validations_until_they_are_done(opened, tmp_path):
    def stage(*overrides, name="merge", run="run"):
        run = opened(*overrides, run=run)
        loaded = load_config(tmp_path / "config.yaml", ["baselines=[]", *overrides])
        plan = make_plan(loaded, run.folder.path, run.found)
        return next(stage for stage in plan.stages if stage.name == name), plan

    (plain, plan), (on, validating) = stage(run="plain"), stage(*ON)
    assert (on.validations, plain.validations) == (3, 0)
    assert on.rollouts == plain.rollouts + 3 * 3 * (1 + 3)  # validations of three prompts
    assert on.scorer_passes == plain.scorer_passes
    assert on.seconds is not None and plain.seconds is not None and on.seconds > plain.seconds
    assert on.step_seconds["validation"] > 0 and "validation" not in plain.step_seconds
    assert any("3 validations of 12 answers" in told for told in validating.assumptions)
    assert not any("validations" in told for told in plan.assumptions)
    opd, _ = stage(*ON, "baselines=[opd]", name="baseline opd", run="other")
    assert opd.validations == 3
    remember_at = tmp_path / "run" / "train"
    remember_at.mkdir(parents=True)
    remember(remember_at, validated(0, 0.5))
    assert stage(*ON)[0].validations == 2


def test_the_best_weights_take_disk_space(opened):
    def checkpoints(*overrides):
        run = opened(*overrides, run=f"run{len(overrides)}")
        return disk_parts(run.folder.config, run.found.fingerprints)["checkpoints"]

    parameters = sum(value.size for value in weights_of(STUDENT).values())
    assert checkpoints(*ON) == checkpoints()
    assert checkpoints(*ON, "training.keep=best") - checkpoints() == pytest.approx(4 * parameters, rel=0.2)


def test_validation_prompts_may_not_change_while_they_are_asked(opened, tmp_path):
    other = f"domains.math.validation={{kind: file, path: {tmp_path / 'valid.jsonl'}, limit: 2}}"
    opened(*ON)
    with refuses("holds another merge", "domains"):
        opened(*ON, other)


def test_and_may_where_nothing_asks_them(opened, tmp_path):
    opened()
    opened(f"domains.math.validation={{kind: file, path: {tmp_path / 'valid.jsonl'}, limit: 2}}")
