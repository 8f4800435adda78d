"""Alarms: what raises each one, and what each action does to the training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from common.errors import RunFailed, TrainingHalted
from configs.blocks.objective import Alarms
from configs.load import load_config
from merging.checks.preflight import preflight
from merging.run import write_prompts
from merging.state.run_folder import RunFolder
from merging.training import distil
from merging.training.alarms import Alarm, AlarmLog, backed_off, raised, read_alarms
from tests.helpers.messages import refuses, say_each, says
from tests.helpers.tiny_model import config_dict, write_config

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


@pytest.mark.parametrize("values, alarm", [
    ((0.0, 0.1, 1.0, 0.9), False), ((0.0, 0.1, 1.1, 1.0), True), ((0.0, 2.2), True), ((2.0, 2.1, 2.9), False),
    ((2.0, 2.1, 3.2), False), ((2.0, 3.0, 3.2), True),  # from where it began: another reference is far
])  # fmt: skip
def test_the_student_may_not_leave_its_reference(values, alarm):
    assert kinds(steps(*values, name="reference_kl")) == (["reference"] if alarm else [])


@pytest.mark.parametrize("values, alarm", [
    ((1.0, 1.0, 0.3, 0.2), False), ((1.0, 1.0, 0.2, 0.2), True), ((0.2, 0.2, 1.0, 1.0), True),
    ((0.2, 0.2, 0.9, 0.9), False), ((0.5, 0.5, 0.0, 0.0), True), ((0.0, 0.0, 0.0, 0.0), False),
])  # fmt: skip
def test_entropy_is_compared_with_the_first_steps(values, alarm):
    assert kinds(steps(*values, name="entropy")) == (["entropy"] if alarm else [])


def test_where_nothing_is_measured_nothing_is_raised():
    assert kinds([{"step": number} for number in range(1, 9)]) == []


@pytest.mark.parametrize("change, kind", [
    ({"reference_kl": 0.2}, "reference"), ({"entropy_factor": 1.2}, "entropy"),
    ({"length_factor": 1.5}, "length"), ({"finish_rate_drop": 0.1}, "finish rate"),
    ({"end_log_probability": -5.0}, "end token"), ({"window": 1}, "length"),
])  # fmt: skip
def test_every_setting_changes_what_is_raised(change, kind):
    lines = [
        {"step": n, "teacher/math/length": length, "teacher/math/finish_rate": rate,
         "teacher/math/teacher_end_logp": -8.0, "teacher/math/reference_kl": n / 10,
         "teacher/math/entropy": 1 / length}
        for n, length, rate in ((1, 10, 0.9), (2, 12, 0.9), (3, 16, 0.75), (4, 20, 0.75))
    ]  # fmt: skip
    assert kinds(lines) == []
    assert kinds(lines, Alarms(**{"window": 2, **change})) == [kind]


def test_texts_say_what_was_and_what_is():
    (alarm,) = raised(steps(10, 10, 25, 25), SETTINGS, "math")
    says(alarm.sentence, "step 4", "math", "25.0 tokens", "10.0")
    backed_off = Alarm("math", "length", 4, "x", one_from=3)
    says(backed_off.sentence, "step 4", "x", "lambda of math is 1 from step 3")


def test_the_log_is_kept_over_attempts_and_tells_what_is_new(tmp_path):
    log = AlarmLog(tmp_path / "train")
    alarm = Alarm("math", "length", 4, "long")
    assert log.new([alarm]) == [alarm] and backed_off(log.alarms) == {}
    log.add(alarm, one_from=3)
    again = AlarmLog(tmp_path / "train")
    assert again.new([alarm, Alarm("code", "length", 4, "long")]) == [Alarm("code", "length", 4, "long")]
    assert backed_off(again.alarms) == {"math": 3}
    assert read_alarms(tmp_path / "train") == [Alarm("math", "length", 4, "long", 3)]
    assert read_alarms(tmp_path / "other") == []
    again.add(Alarm("math", "finish rate", 5, "cut off"), one_from=5)
    assert backed_off(again.alarms) == {"math": 3}, "lambda stays 1 from the first back-off on"


def test_an_alarm_speaks_again_where_a_back_off_did_not_help(tmp_path):
    """Lambda is 1 from step 5 on: at step 7 all of a window of three was at 1, then once in a window."""
    log = AlarmLog(tmp_path)
    log.add(Alarm("math", "length", 6, "long"), one_from=5)
    said = []
    for step in range(6, 15):
        for alarm in log.new([Alarm("math", "length", step, "long"), Alarm("code", "length", step, "x")], 3):
            said.append((alarm.domain, step))
            log.add(alarm)
    assert said == [("code", 6), ("math", 9), ("math", 12)]
    says(log.alarms[-1].sentence, "step 12", "long", "lambda is 1 since step 5")
    assert AlarmLog(tmp_path).new([Alarm("math", "length", 14, "long")], 3) == []
    (again,) = AlarmLog(tmp_path).new([Alarm("math", "length", 15, "long")], 3)
    assert again.step == 15
    assert backed_off(log.alarms) == {"math": 5}


def test_without_a_back_off_an_alarm_speaks_once(tmp_path):
    log = AlarmLog(tmp_path)
    log.add(Alarm("math", "length", 6, "long"))
    assert not any(log.new([Alarm("math", "length", step, "long")], 3) for step in range(7, 40))


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
        monkeypatch.setattr(
            "merging.training.metrics.step_metrics", lambda step, raw, scales: {**raw, "step": step}
        )
        self.checkpoint = 0

    def saved(self, folder: Path) -> int:
        return self.checkpoint

    def is_long(self, step: int, own: list[dict]) -> bool:
        return step >= 3 and any(row["reward_scale"] > 1 for row in own)

    def train(self, job, cluster, on_step, *_):
        self.jobs.append(job)
        rows = pq.read_table(job.train_file).to_pylist()
        per_step = job.prompts_per_step
        for step in range(self.checkpoint + 1, job.steps + 1):
            own = [row for row in rows[(step - 1) * per_step : step * per_step] if row["teacher"] == "math"]
            on_step(step, answers(40.0 if self.is_long(step, own) else 10.0))
            self.checkpoint = step - step % 2


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a merge of four steps with these overrides; returns the fake training and the lines said."""
    said: list[str] = []
    monkeypatch.setattr(distil, "say", said.append)
    monkeypatch.setattr("merging.exopd.job.merge_job", _job)

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


def _job(config, name, teachers, prompts, work, adapters, schedule, served, start, validation, gap):
    return SimpleNamespace(
        folder=work, model_path=str(start), validation=validation, train_file=prompts, lora=None,
        checkpoints=work / "checkpoints", steps=config.training.steps,
        prompts_per_step=config.training.prompts_per_step,
    )  # fmt: skip


def test_warn_says_it_once_and_goes_on(run):
    fake = run()
    say_each(fake.said, ("alarm", "step 3", "math", "40.0 tokens", "10.0"))
    says(fake.said[0], absent=["lambda"])
    assert len(fake.jobs) == len(fake.exported) == 1


def test_back_off_goes_on_from_the_checkpoint_at_lambda_one_for_that_domain(run):
    closed = FakeCluster.closed
    fake = run("objective.alarms.action=back_off")
    assert FakeCluster.closed == closed + 1
    facts = ("alarm", "step 3", "math", "40.0 tokens", "10.0")
    say_each(fake.said, (*facts, "lambda of math is 1 from step 3"))
    assert len(fake.jobs) == 2 and len(fake.exported) == 1
    before, after = (pq.read_table(job.train_file).to_pylist() for job in fake.jobs)
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    scales = [(1 + place // 2, row["teacher"], row["reward_scale"]) for place, row in enumerate(after)]
    assert {scale for step, teacher, scale in scales if teacher == "math" and step >= 3} == {1.0}
    assert {scale for step, teacher, scale in scales if teacher == "code" or step < 3} == {1.25}


def test_after_a_back_off_in_vain_the_alarm_is_said_again(run, monkeypatch):
    fake = FakeTraining(monkeypatch)
    fake.is_long = lambda step, own: step >= 3
    rows = {f"teacher/{domain}/sequences": 1.0 for domain in ("math", "code")}
    before = [{"step": step, **answers(10.0), **rows} for step in (1, 2)]
    monkeypatch.setattr("trainer.run.read_metrics", lambda folder: before if fake.checkpoint else [])
    run("objective.alarms.action=back_off", "training.steps=6", fake=fake)
    assert [alarm.step for alarm in read_alarms(fake.work)] == [3, 4, 5, 6]
    says(fake.said[-1], "step 6", "math", "40.0 tokens", "lambda is 1 since step 3")
    assert len(fake.jobs) == 2 and len(fake.exported) == 1, "there is nothing left to back off"


def test_a_warm_up_does_not_switch_the_start_guard_off(run, monkeypatch):
    """The scorer reads another model than the trainer: seen in step 2, the first that reads it."""
    fake = FakeTraining(monkeypatch)
    far = {"teacher/math/student_reference_distance": 3.0}
    lines = [answers(10.0), answers(10.0) | far]
    fake.train = lambda job, cluster, on_step, *_: [on_step(step, line) for step, line in enumerate(lines, 1)]
    monkeypatch.setattr("trainer.run.train", fake.train)
    with refuses("domain 'math'", "step 2", "3 nats", error=ValueError):
        run("objective.reward_scale_warmup_steps=3", fake=fake)


def test_a_backed_off_training_that_is_continued_stays_backed_off(run):
    run("objective.alarms.action=back_off")
    again = run("objective.alarms.action=back_off")
    assert {r["reward_scale"] for r in pq.read_table(again.jobs[0].train_file).to_pylist()} == {1.0, 1.25}
    assert len(again.jobs) == 1


def test_at_lambda_one_there_is_nothing_to_back_off(run, monkeypatch):
    fake = FakeTraining(monkeypatch)
    fake.train = lambda job, cluster, on_step, *_: [on_step(step, answers(10.0 * step)) for step in (1, 2)]
    monkeypatch.setattr("trainer.run.train", fake.train)
    run("objective.alarms.action=back_off", name="opd", reward_scale=1.0, fake=fake)
    say_each(fake.said, ("alarm", "step 2", "math", "20.0 tokens", "10.0"))
    says(fake.said[0], absent=["lambda"])


def test_after_the_last_step_there_is_nothing_to_back_off(run):
    fake = run("objective.alarms.action=back_off", "training.steps=3")
    say_each(fake.said, ("alarm", "step 3", "math", "40.0 tokens", "10.0"))
    says(fake.said[0], absent=["lambda"])
    assert len(fake.jobs) == 1


def test_stop_ends_the_run_and_a_second_call_goes_past_it(run):
    with refuses("step 3", "math", "objective.alarms.action: stop", error=TrainingHalted):
        run("objective.alarms.action=stop")
    assert issubclass(TrainingHalted, RunFailed)
    assert len(run("objective.alarms.action=stop").exported) == 1


def test_train_hands_a_halt_on_as_it_is(monkeypatch, tmp_path):
    from omegaconf import OmegaConf

    from trainer import run as trainer_run

    halt = TrainingHalted("enough")

    def launch(config):
        raise halt

    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(trainer_run, "verl_config", lambda job, name: OmegaConf.create({}))
    monkeypatch.setattr(trainer_run, "launch", launch)
    job = SimpleNamespace(
        folder=tmp_path,
        checkpoints=tmp_path / "c",
        steps=3,
        name="merge",
        imports=(),
        save_every=1,
        hardware=SimpleNamespace(gpus=1, nodes=1),
    )
    with pytest.raises(TrainingHalted) as raised_error:
        trainer_run.train(job, SimpleNamespace(logs=tmp_path, trackers=(), nodes=None, job=None))
    assert raised_error.value is halt
