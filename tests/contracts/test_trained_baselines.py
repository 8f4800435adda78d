"""What every entry of merging.baselines.kinds.TRAINED must do."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from common.errors import ConfigError
from configs.blocks.baselines import BaselineName, TrainedBaseline
from configs.load import load_config
from configs.reading.explain import kind_of
from eval.records import Completion
from merging import run as run_module
from merging.baselines.kinds import TRAINED
from merging.baselines.weights import METHODS
from merging.checks.preflight import preflight
from merging.planning.plan import make_plan
from merging.reports.prompt_report import prompt_use
from merging.state.baseline_record import is_made
from merging.state.run_folder import RunFolder
from tests.helpers.mode_template import student_with
from tests.helpers.model_copies import STUDENT, noisy_copy, weights_of
from tests.helpers.tiny_model import sum_rows, write_config, write_jsonl
from tests.helpers.verl_checkpoints import write_checkpoint
from trainer.run import last_checkpoint

BLOCKS = {"grpo": {"kind": "grpo", "samples_per_prompt": 2}}
"""The block of a kind whose defaults do not fit a small run."""

POLISH = {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2}
"""As many rollouts as the merge."""
AFTER_DISTILLATION = ("opd_more",)
"""Kinds that control a polish and begin at the distilled student; the others begin at the base student."""


def test_every_kind_of_the_config_has_its_entry():
    assert list(TRAINED) == [kind_of(block) for block in get_args(TrainedBaseline)]
    assert get_args(BaselineName) == (*TRAINED, *METHODS, "oracle", "teacher_more")


class Trainer:
    """Stands for verl: every step has a checkpoint and a line of metrics."""

    def __init__(self):
        self.jobs = []

    def __call__(self, job, cluster, on_step, *_):
        import torch

        self.jobs.append(job)
        raw = {f"actor/teacher/{domain}/sequences": 4.0 for domain in ("math", "code")}
        raw |= {"train/loss": 0.5, "critic/score/mean": 0.5, "response_length/mean": 4.0}
        for step in range(last_checkpoint(job.checkpoints) + 1, job.steps + 1):
            weights = {name: torch.from_numpy(value) + step for name, value in weights_of(STUDENT).items()}
            write_checkpoint(job.checkpoints, step, [weights])
            with (job.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "time": 1.0, **raw}) + "\n")
            on_step(step, raw)


class Answers:
    """Stands for the generator of the teachers' answers."""

    def __init__(self, **_settings):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, model, problems, n, **_how):
        return {problem.id: [Completion("1", 2, True)] * n for problem in problems}


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    for place in ("trainer.run.train", "merging.training.rewarded.train", "merging.baselines.sft.train"):
        monkeypatch.setattr(place, trainer)
    monkeypatch.setattr("eval.generation.generate.Generator", Answers)
    return trainer


class Cluster:
    """Ray that is never needed."""

    def __call__(self):
        return None

    def close(self):
        pass


@pytest.fixture
def load(tmp_path):
    """Loads a config with two given experts, four prompts of each domain and these baselines."""
    for seed, name in enumerate(("math", "code")):
        noisy_copy(tmp_path / f"{name}_expert", seed)
        rows = [{**row, "prompt": f"{name} {row['prompt']}"} for row in sum_rows(4)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)

    def load(*baselines, student=STUDENT, modes=None):
        config = {
            "name": "demo", "student": str(student), "registry": "home", "hardware": {"device": "cpu"},
            "domains": {
                name: {
                    "expert": {"kind": "model", "path": f"{name}_expert"},
                    "prompts": {"kind": "file", "path": f"{name}.jsonl"},
                    "reward": "exact",
                    **(modes or {}).get(name, {}),
                }
                for name in ("math", "code")
            },
            "training": {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2, "max_prompt_tokens": 24,
                         "max_response_tokens": 16},
            "baselines": [BLOCKS.get(kind, kind) for kind in baselines],
            "polish": POLISH if set(baselines) & set(AFTER_DISTILLATION) else None,
        }  # fmt: skip
        return load_config(write_config(tmp_path, config))

    return load


@pytest.mark.parametrize("kind", TRAINED)
class TestTrainedBaseline:
    def test_the_plan_has_the_merges_steps_and_rollouts(self, kind, load, tmp_path):
        (stage,) = [s for s in make_plan(load(kind), tmp_path / "run").stages if s.name == f"baseline {kind}"]
        assert (stage.state, stage.steps, stage.rollouts) == ("to do", 2, 16)
        assert stage.scorer_passes in (0, 16, 32)

    def test_it_is_trained_from_its_start_once_and_recorded(self, kind, load, tmp_path, trainer):
        loaded = load(kind)
        found = preflight(loaded, tmp_path / "run")
        folder = RunFolder.open(tmp_path / "run", loaded, found)
        run_module.write_prompts(folder, found)
        title = f"baseline {kind}"
        rows = {use.training: use for use in prompt_use(folder).trainings}[title]
        assert not rows.trained and rows.steps == 2
        start = STUDENT
        if kind in AFTER_DISTILLATION:
            start = shutil.copytree(STUDENT, folder.distilled)
        teachers = run_module.experts(folder, found, Cluster())
        for _ in range(2):
            run_module.train_baselines(folder, teachers, found.routed, Cluster())
        (job,) = trainer.jobs
        assert (job.model_path, job.folder, job.steps) == (str(start), folder.path / kind, 2)
        (baseline,) = folder.config.baselines
        assert is_made(baseline, folder.baseline(kind)) and is_made(baseline, folder.path / kind)
        student, made = weights_of(STUDENT), weights_of(folder.baseline(kind))
        assert {round(float((made[name] - student[name]).mean())) for name in student} == {2}  # of step 2
        assert [line["step"] for line in folder.read_metrics(kind)] == [1, 2]
        rows = {use.training: use for use in prompt_use(folder).trainings}[title]
        assert rows.trained == dict(rows.planned) == {"math": 4, "code": 4}
        assert title in folder.measured.wall_seconds

    def test_it_is_trained_on_prompts_in_the_mode_of_their_domain(self, kind, load, tmp_path, trainer):
        student = student_with(tmp_path / "asked")
        for name in ("math", "code"):
            shutil.copy(student / "chat_template.jinja", tmp_path / f"{name}_expert")
        modes = {"math": {"chat_template": {"think": True}}, "code": {"system_prompt": "Py."}}
        loaded = load(kind, student=student, modes=modes)
        found = preflight(loaded, tmp_path / "run")
        folder = RunFolder.open(tmp_path / "run", loaded, found)
        run_module.write_prompts(folder, found)
        if kind in AFTER_DISTILLATION:
            shutil.copytree(student, folder.distilled)
        run_module.train_baselines(
            folder, run_module.experts(folder, found, Cluster()), found.routed, Cluster()
        )
        (job,) = trainer.jobs
        tokenizer = AutoTokenizer.from_pretrained(student)
        templates = getattr(job, "chat_templates", {})
        begins = {"math": "T math ", "code": "[Py.]code "}
        rows = pq.read_table(job.train_file).to_pylist()
        assert {row["teacher"] for row in rows} == begins.keys()
        for row in rows:
            own = templates.get(row["teacher"], {})
            text = (
                tokenizer.decode(row["prompt_ids"])
                if "prompt_ids" in row
                else tokenizer.apply_chat_template(row["prompt"], tokenize=False, **own)
            )
            assert text.startswith(begins[row["teacher"]])

    def test_prompts_without_an_answer_are_refused_where_rewards_judge(self, kind, load, tmp_path):
        loaded = load(kind)
        write_jsonl(tmp_path / "math.jsonl", [*sum_rows(3), {"prompt": "open", "answer": None}])
        if not TRAINED[kind].needs_answers:
            assert preflight(loaded, tmp_path / "run").counts() == {"math": 4, "code": 4}
            return
        with pytest.raises(ConfigError, match=rf"row 4: no answer.*baseline `{kind}` on the prompts"):
            preflight(loaded, tmp_path / "run")
