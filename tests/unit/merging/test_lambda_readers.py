"""What reads lambda's schedule changes with it: the rows, the metrics, the plan. (The report: `reports`.)"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.planning.plan import make_plan
from merging.run import write_prompts
from merging.state.run_folder import RunFolder
from merging.training.alarms import Alarm, AlarmLog
from merging.training.distil import Distillation
from tests.helpers.tiny_model import config_dict, write_config

WARM = "objective={reward_scale: 1.5, reward_scale_warmup_steps: 2}"
STEPS, RUN = 4, "run"


@pytest.fixture
def loaded(tmp_path):
    """A config of four steps with one prompt of each domain, with these overrides."""
    path = write_config(tmp_path, config_dict(tmp_path))

    def loaded(*overrides):
        return load_config(path, [f"training.steps={STEPS}", "training.prompts_per_step=2", *overrides])

    return loaded


@pytest.fixture
def opened(loaded, tmp_path):
    """The run's folder with its rows written."""

    def opened(*overrides):
        config = loaded(*overrides)
        found = preflight(config, tmp_path / RUN)
        folder = RunFolder.open(tmp_path / RUN, config, found)
        write_prompts(folder, found)
        return folder

    return opened


def scales(file, domain: str) -> list[float]:
    return [row["reward_scale"] for row in pq.read_table(file).to_pylist() if row["teacher"] == domain]


def back_off(work, domain: str, one_from: int) -> None:
    AlarmLog(work).add(Alarm(domain, "length", one_from, "long"), one_from=one_from)


# --------------------------------------------------------------------------------------------- rows


def test_the_rows_carry_the_lambda_of_their_step(opened):
    folder = opened(WARM, "domains.code.objective={reward_scale: 0}")
    assert scales(folder.prompts_file, "math") == [1.0, 1.25, 1.5, 1.5]
    assert scales(folder.prompts_file, "code") == [1.0, 0.5, 0.0, 0.0]


# ------------------------------------------------------------------------------ a training's own


class Trained:
    """Stands for a training to its end: keeps its job, and leaves verl's metrics as a real one does."""

    def __init__(self, monkeypatch):
        self.jobs = []
        monkeypatch.setattr("trainer.run.train", self.train)
        monkeypatch.setattr("trainer.export.export", lambda *_: None)

    def train(self, job, cluster, on_step, *_):
        self.jobs.append(job)
        job.folder.mkdir(parents=True, exist_ok=True)
        sums = dict.fromkeys(
            ("tokens", "sequences", "finished", "end_teacher_logp", "implicit_reward", "advantage_squared",
             "student_minus_teacher", "student_reference_distance", "advantage", "gradient_share"),
            1.0,
        )  # fmt: skip
        raw = {f"actor/teacher/{d}/{name}": v for d in ("math", "code") for name, v in sums.items()}
        rows = [json.dumps({"step": step, **raw}) + "\n" for step in range(1, STEPS + 1)]
        (job.folder / "metrics.jsonl").write_text("".join(rows))


def distilled(folder, monkeypatch, name="merge", reward_scale=None):
    """The job of a training in `<run>/<name>`, and the metrics that it kept."""
    trained = Trained(monkeypatch)
    teachers = [SimpleNamespace(domain=d, model_path=d, adapter_path=None) for d in folder.config.domains]
    training = Distillation(folder, teachers, name, folder.path / name, reward_scale)
    training.run(lambda: None, folder.path / "model")
    return trained.jobs[0], folder.read_metrics(name)


def measured(lines, name: str) -> list[bool]:
    return [f"teacher/math/{name}" in line for line in lines]


def test_a_back_off_reaches_the_rows_and_the_metrics(opened, monkeypatch):
    folder = opened(WARM)
    job, lines = distilled(folder, monkeypatch)
    assert job.train_file == folder.prompts_file
    assert measured(lines, "implicit_reward") == [False, True, True, True]  # lambda 1 in the first step
    assert measured(lines, "student_minus_teacher") == [True] * 4
    back_off(folder.path / "merge", "math", one_from=4)
    job, lines = distilled(folder, monkeypatch)
    assert scales(job.train_file, "math") == [1.0, 1.25, 1.5, 1.0]
    assert scales(job.train_file, "code") == [1.0, 1.25, 1.5, 1.5]
    assert measured(lines, "implicit_reward") == [False, True, True, False]
    assert all("teacher/code/implicit_reward" in line for line in lines[1:])


def test_an_override_reaches_the_rows_and_the_metrics(opened, monkeypatch):
    folder = opened(WARM)
    job, lines = distilled(folder, monkeypatch, "interpolation", 0.5)
    assert scales(job.train_file, "math") == scales(job.train_file, "code") == [0.5] * 4
    assert measured(lines, "implicit_reward") == [True] * 4
    assert measured(distilled(folder, monkeypatch, "opd", 1.0)[1], "implicit_reward") == [False] * 4


def test_at_lambda_zero_what_needs_the_teacher_was_not_measured(opened, monkeypatch):
    _, lines = distilled(opened("objective={reward_scale: 0, reward_scale_warmup_steps: 2}"), monkeypatch)
    assert measured(lines, "student_minus_teacher") == [True, True, False, False]
    assert measured(lines, "teacher_end_logp") == [True, True, False, False]
    assert measured(lines, "implicit_reward") == [False, True, False, False]
    assert measured(lines, "student_reference_distance") == [False, True, True, True]


# --------------------------------------------------------------------------------------------- plan


def planned(loaded, tmp_path, *overrides) -> dict[str, int]:
    """Scorer passes by stage, and of one rollout by domain."""
    plan = make_plan(loaded(*overrides), tmp_path / RUN)
    stages = {s.name: s.scorer_passes for s in plan.stages if s.name.startswith(("merge", "baseline"))}
    return stages | plan.scorer_passes_per_rollout


def test_the_plan_counts_the_passes_of_every_step(loaded, tmp_path):
    """Four steps with one rollout of each domain."""
    opd = "baselines=[opd, interpolation]"
    assert planned(loaded, tmp_path, opd) == {
        "merge": 16, "baseline opd": 8, "baseline interpolation": 16, "math": 2, "code": 2
    }  # fmt: skip
    assert planned(loaded, tmp_path, WARM, "baselines=[]") == {"merge": 14, "math": 2, "code": 2}
    zero = ("objective={reward_scale: 0, reward_scale_warmup_steps: 2}", "baselines=[]")
    # per domain: teacher alone, both, reference alone, reference alone
    assert planned(loaded, tmp_path, *zero) == {"merge": 2 * (1 + 2 + 1 + 1), "math": 1, "code": 1}


def test_the_plan_of_a_run_that_was_backed_off_counts_what_is_left_at_lambda_one(loaded, tmp_path):
    back_off(tmp_path / RUN / "train", "math", one_from=3)
    # math: 2 + 2 + 1 + 1; code: 4 times 2
    assert planned(loaded, tmp_path, "baselines=[opd]") == {
        "merge": 14, "baseline opd": 8, "math": 1, "code": 2
    }  # fmt: skip
