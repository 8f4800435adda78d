"""Alarms: what raises each one, and what each action does to the training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from configs.guards import Alarms
from configs.load import load_config
from merging import distil
from merging.alarms import Alarm, AlarmLog, raised, read_alarms
from merging.preflight import preflight
from merging.run import write_prompts
from merging.run_folder import RunFolder
from tests.unit.tiny_model import config_dict, write_config
from trainer.errors import RunFailed, TrainingHalted

SETTINGS = Alarms(window=2)


def steps(*values, name="length", domain="math"):
    return [{"step": number, f"teacher/{domain}/{name}": value} for number, value in enumerate(values, 1)]


def kinds(lines, settings=SETTINGS):
    return [alarm.kind for alarm in raised(lines, settings, "math")]


@pytest.mark.parametrize("values, alarm", [
    ((10, 10, 19, 20), False), ((10, 10, 20, 20), True), ((10, 10, 5, 5), True), ((10, 10, 6, 5), False),
    ((10, 10, 30), False),  # too few steps to compare
    ((10, 10, 30, 30, 10, 10), False),  # the last ones count
])  # fmt: skip
def test_length_is_compared_with_the_first_steps(values, alarm):
    assert kinds(steps(*values)) == (["length"] if alarm else [])


def test_the_finish_rate_may_rise_and_not_fall():
    assert kinds(steps(0.9, 0.9, 0.71, 0.71, name="finish_rate")) == []
    assert kinds(steps(0.9, 0.9, 0.7, 0.69, name="finish_rate")) == ["finish rate"]
    assert kinds(steps(0.1, 0.1, 0.9, 0.9, name="finish_rate")) == []


def test_a_teacher_that_never_ends_where_the_student_does():
    assert kinds(steps(-14.0, -15.5, name="teacher_end_logp")) == []
    assert kinds(steps(-14.0, -16.5, name="teacher_end_logp")) == ["end token"]
    assert kinds(steps(-20.0, name="teacher_end_logp")) == []  # one step of two


@pytest.mark.parametrize("change, kind", [
    ({"length_factor": 1.5}, "length"), ({"finish_rate_drop": 0.1}, "finish rate"),
    ({"end_log_probability": -5.0}, "end token"), ({"window": 1}, "length"),
])  # fmt: skip
def test_every_setting_changes_what_is_raised(change, kind):
    lines = [
        {"step": n, "teacher/math/length": length, "teacher/math/finish_rate": rate,
         "teacher/math/teacher_end_logp": -8.0}
        for n, length, rate in ((1, 10, 0.9), (2, 12, 0.9), (3, 16, 0.75), (4, 20, 0.75))
    ]  # fmt: skip
    assert kinds(lines) == []
    assert kinds(lines, Alarms(**{"window": 2, **change})) == [kind]


def test_texts_say_what_was_and_what_is():
    (alarm,) = raised(steps(10, 10, 25, 25), SETTINGS, "math")
    assert alarm.sentence == "step 4: answers of math have 25.0 tokens, 10.0 at first"
    backed_off = Alarm("math", "length", 4, "x", one_from=3)
    assert backed_off.sentence == "step 4: x; lambda of math is 1 from step 3"


def test_the_log_is_kept_over_attempts_and_tells_what_is_new(tmp_path):
    log = AlarmLog(tmp_path / "train")
    alarm = Alarm("math", "length", 4, "long")
    assert log.new([alarm]) == [alarm] and log.one_from("math") is None
    log.add(alarm, one_from=3)
    again = AlarmLog(tmp_path / "train")
    assert again.new([alarm, Alarm("code", "length", 4, "long")]) == [Alarm("code", "length", 4, "long")]
    assert again.one_from("math") == 3 and again.one_from("code") is None
    assert read_alarms(tmp_path / "train") == [Alarm("math", "length", 4, "long", 3)]
    assert read_alarms(tmp_path / "other") == []


# ----------------------------------------------------------------------------------------- in a training


def answers(length: float) -> dict[str, float]:
    return {"teacher/math/length": length, "teacher/math/finish_rate": 1.0}


class FakeCluster:
    """Counts how often it was closed."""

    closed = 0

    def __call__(self):
        return None

    def close(self):
        FakeCluster.closed += 1


class FakeTraining:
    """Stands for `trainer.run.train`: lengths of `math` double at step 3 as long as its lambda is above 1."""

    def __init__(self, monkeypatch):
        import trainer.export
        import trainer.run

        self.jobs, self.exported = [], []
        monkeypatch.setattr(trainer.run, "train", self.train)
        monkeypatch.setattr(trainer.run, "last_checkpoint", lambda folder: self.saved(folder))
        monkeypatch.setattr(trainer.run, "read_metrics", lambda folder: [])
        monkeypatch.setattr(trainer.export, "export", lambda *args: self.exported.append(args))
        monkeypatch.setattr("merging.metrics.step_metrics", lambda step, raw, scales: {**raw, "step": step})
        self.checkpoint = 0

    def saved(self, folder: Path) -> int:
        return self.checkpoint

    def train(self, job, cluster, on_step):
        self.jobs.append(job)
        rows = pq.read_table(job.train_file).to_pylist()
        per_step = job.prompts_per_step
        for step in range(self.checkpoint + 1, job.steps + 1):
            own = [row for row in rows[(step - 1) * per_step : step * per_step] if row["teacher"] == "math"]
            long = step >= 3 and any(row["reward_scale"] > 1 for row in own)
            on_step(step, answers(40.0 if long else 10.0))
            self.checkpoint = step - step % 2


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a merge of four steps with these overrides; returns the fake training and the lines said."""
    said: list[str] = []
    monkeypatch.setattr(distil, "say", said.append)
    monkeypatch.setattr("merging.exopd.merge_job", _job)

    def run(*overrides, name="merge", reward_scale=None, fake=None):
        overrides = [
            "training.steps=4", "training.prompts_per_step=2", "objective.alarms.window=1", *overrides
        ]  # fmt: skip
        loaded = load_config(write_config(tmp_path, config_dict(tmp_path)), overrides)
        found = preflight(loaded, tmp_path / "run")
        folder = RunFolder.open(tmp_path / "run", loaded, found)
        write_prompts(folder, found)
        fake = fake or FakeTraining(monkeypatch)
        teachers = [SimpleNamespace(domain=d, model_path=d, adapter_path=None) for d in folder.config.domains]
        training = distil.Distillation(folder, teachers, name, tmp_path / "run/train", reward_scale)
        fake.said, fake.work = said, training.work
        training.run(FakeCluster(), tmp_path / "run/student")
        return fake

    return run


def _job(config, name, teachers, prompts, work, adapters):
    return SimpleNamespace(
        train_file=prompts, checkpoints=work / "checkpoints", steps=config.training.steps,
        prompts_per_step=config.training.prompts_per_step,
    )  # fmt: skip


def test_warn_says_it_once_and_goes_on(run):
    fake = run()
    assert fake.said == ["alarm: step 3: answers of math have 40.0 tokens, 10.0 at first"]
    assert len(fake.jobs) == len(fake.exported) == 1


def test_back_off_goes_on_from_the_checkpoint_at_lambda_one_for_that_domain(run):
    closed = FakeCluster.closed
    fake = run("objective.alarms.action=back_off")
    assert FakeCluster.closed == closed + 1
    assert fake.said == [
        "alarm: step 3: answers of math have 40.0 tokens, 10.0 at first; lambda of math is 1 from step 3"
    ]
    assert len(fake.jobs) == 2 and len(fake.exported) == 1
    before, after = (pq.read_table(job.train_file).to_pylist() for job in fake.jobs)
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    scales = [(1 + place // 2, row["teacher"], row["reward_scale"]) for place, row in enumerate(after)]
    assert {scale for step, teacher, scale in scales if teacher == "math" and step >= 3} == {1.0}
    assert {scale for step, teacher, scale in scales if teacher == "code" or step < 3} == {1.25}


def test_a_backed_off_training_that_is_continued_stays_backed_off(run):
    run("objective.alarms.action=back_off")
    again = run("objective.alarms.action=back_off")
    assert {r["reward_scale"] for r in pq.read_table(again.jobs[0].train_file).to_pylist()} == {1.0, 1.25}
    assert len(again.jobs) == 1


def test_at_lambda_one_there_is_nothing_to_back_off(run, monkeypatch):
    fake = FakeTraining(monkeypatch)
    fake.train = lambda job, cluster, on_step: [on_step(step, answers(10.0 * step)) for step in (1, 2)]
    monkeypatch.setattr("trainer.run.train", fake.train)
    run("objective.alarms.action=back_off", name="opd", reward_scale=1.0, fake=fake)
    assert fake.said == ["alarm: step 2: answers of math have 20.0 tokens, 10.0 at first"]


def test_after_the_last_step_there_is_nothing_to_back_off(run):
    fake = run("objective.alarms.action=back_off", "training.steps=3")
    assert fake.said == ["alarm: step 3: answers of math have 40.0 tokens, 10.0 at first"]
    assert len(fake.jobs) == 1


def test_stop_ends_the_run_and_a_second_call_goes_past_it(run):
    with pytest.raises(TrainingHalted, match=r"step 3: answers of math .*\(objective.alarms.action: stop\)"):
        run("objective.alarms.action=stop")
    assert issubclass(TrainingHalted, RunFailed)
    assert len(run("objective.alarms.action=stop").exported) == 1


def test_train_hands_a_halt_on_as_it_is(monkeypatch, tmp_path):
    from trainer import run as trainer_run

    halt = TrainingHalted("enough")

    def launch(config):
        raise halt

    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(trainer_run, "verl_config", lambda job, name: None)
    monkeypatch.setattr(trainer_run, "_add", lambda *args: None)
    monkeypatch.setattr(trainer_run, "_launch", launch)
    job = SimpleNamespace(
        folder=tmp_path, checkpoints=tmp_path / "c", steps=3, name="merge", imports=(), save_every=1
    )
    with pytest.raises(TrainingHalted) as raised_error:
        trainer_run.train(job, SimpleNamespace(logs=tmp_path, trackers=()))
    assert raised_error.value is halt
