"""A polished run from its training to its report, card and manifest, and as a point of a sweep."""

from __future__ import annotations

import json
import re

import pytest

from common.files import write_json
from eval.records import Completion
from merging import run as run_module
from merging.reports import sweep_report
from merging.reports.sweep_run import SweepRun
from tests.helpers.opened_runs import open_run
from tests.helpers.polished_runs import experts, polished_config
from tests.helpers.stand_in_trainers import FakeCluster, StageTrainer
from tests.helpers.tiny_model import sum_rows, write_jsonl

RIGHT = {"student": 8, "distilled": 6, "teacher_more": 7, "opd_more": 3, "math_expert": 4,
         "code_expert": 4}  # fmt: skip
"""How many of eight problems each model's folder answers rightly; the base none."""


class Answers:
    """Stands for the generator."""

    asked: list[tuple[str, int]] = []  # noqa: RUF012

    def __init__(self, **_arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, model, problems, mode, n, temperature, seed, max_tokens, on_progress):
        name = model.parent.name if model.parent.name == "teacher_more" else model.name
        right = 0 if model.parent.name == "demo" else RIGHT[name]
        self.asked.append((name, len(problems)))
        return {
            problem.id: [Completion(f"\\boxed{{{place + 1 if place < right else 'no'}}}", 4, True)] * n
            for place, problem in enumerate(problems)
        }


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A polished run of one benchmark in each domain, trained and evaluated: how it was loaded, its folder,
    its teachers and its samples."""
    trainer = StageTrainer()
    for place in ("trainer.run.train", "merging.training.rewarded.train"):
        monkeypatch.setattr(place, trainer)
    monkeypatch.setattr(Answers, "asked", [])
    overrides = ["baselines=[teacher_more, opd_more]", "evaluation.samples_per_problem=1"]
    for name in ("math", "code"):
        rows = [{"id": f"p{i}", **row} for i, row in enumerate(sum_rows(8))]
        write_jsonl(
            tmp_path / f"{name}.sums.jsonl", [{**row, "prompt": f"{name}: {row['prompt']}"} for row in rows]
        )
        benchmark = {"kind": "math", "name": f"{name}_sums", "path": f"./{name}.sums.jsonl"}
        overrides.append(f"domains.{name}.benchmarks=[{json.dumps(benchmark)}]")
    loaded, teachers = polished_config(tmp_path, *overrides), experts(tmp_path)
    run = open_run(loaded, tmp_path / "run").written()
    folder = run.folder
    run_module.train_student(folder, teachers, FakeCluster())
    run_module.train_baselines(folder, teachers, run.found.routed, FakeCluster())
    samples = run_module.evaluate_models(folder, teachers, make_generator=Answers)
    return loaded, folder, teachers, samples


def test_the_report_shows_both_students_and_the_control_beside_the_teacher(trained, monkeypatch):
    _, folder, teachers, samples = trained
    assert [count for name, count in Answers.asked if name == "teacher_more"] == [8, 8] * 2, (
        "its own domain's"
    )
    said = []
    monkeypatch.setattr(run_module, "say", said.append)
    run_module.report(folder, teachers, samples)
    report = json.loads((folder.path / "report.json").read_text())
    assert list(report["models"])[:2] == ["student", "distilled"]
    scores = {name: model["benchmarks"]["math_sums"] for name, model in report["models"].items()}
    assert scores["student"]["accuracy"] == 1 and scores["distilled"]["accuracy"] == 6 / 8
    assert scores["math-teacher-more"]["accuracy"] == 7 / 8 and scores["code-teacher-more"] is None
    questions = [q for q in report["questions"] if (q["domain"], q["mode"]) == ("math", "sampled")]
    (question,) = [q for q in questions if q["against"] == "math-teacher"]
    # 4 of 8 problems, all one way: p = 2 / 2^4, which four questions leave undecided
    assert (question["p_value"], question["p_adjusted"]) == (0.125, 0.5)
    assert question["outcome"] == "not decided" and question["problems_to_decide"] > 8
    assert question["sentence"] in said and report["headline"]["sentence"] in said
    gains = {(r["against"], r["benchmark"]): r["difference"] for r in report["before_polish"]}
    assert gains["base", "math_sums"] == 6 / 8 and gains["math-teacher", "math_sums"] == 2 / 8
    assert ("math-teacher", "code_sums") not in gains
    assert report["polish"]["rollouts"] == {"math": 8, "code": 8} and report["polish"]["left_out"] == []
    assert scores["opd_more"]["accuracy"] == 3 / 8
    (verdict,) = [v for v in report["verdicts"] if (v["domain"], v["against"]) == ("math", "opd_more")]
    assert verdict["outcome"] == "not decided" and "n = 8" in verdict["sentence"]
    assert report["polish"]["more"] == {
        "model": "opd_more", "steps": 4, "rollouts": {"math": 8, "code": 8}
    }  # fmt: skip
    assert report["polish"]["controls"]["math"] == {"model": "math-teacher-more", "steps": 2, "rollouts": 8}
    card = re.sub(r"\\(.)", r"\1", (folder.student / "README.md").read_text())
    assert (
        "and then polished by reinforcement learning" in card and "The polish: after its distillation" in card
    )
    assert not (folder.distilled / "README.md").exists()
    manifest = json.loads((folder.path / "manifest.json").read_text())
    assert manifest["provenance"]["polish"].startswith("steps 2") and manifest["complete"]
    assert run_module.report_run(folder.path).name == "report.html"


def test_a_sweep_shows_the_control_and_says_that_students_are_polished(trained, tmp_path):
    loaded, folder, teachers, samples = trained
    run = SweepRun(1.0, 42, loaded, folder.path)
    sweep_report.write(tmp_path, [run], {run: folder}, teachers, {run: samples}, folder.measured)
    page = json.loads((tmp_path / "sweep.json").read_text())
    fixed = {curve["benchmark"]: list(curve["fixed"]) for curve in page["curves"]}
    # `opd_more` depends on a run's lambda, as the distilled student does
    assert fixed["math_sums"] == ["base", "math-teacher", "code-teacher", "math-teacher-more"]
    said = (tmp_path / "sweep.md").read_text()
    assert "its teacher" in said
    assert "math-teacher-more, this teacher trained on as long, reaches 87.5%" in said
    assert "every student was polished for 2 steps" in said


def test_a_control_that_is_not_made_keeps_a_run_from_its_evaluation(trained):
    _, folder, _, _ = trained
    write_json(folder.teacher_more("code") / "baseline.json", {"kind": "teacher_more", "learning_rate": 9.0})
    with pytest.raises(run_module.ConfigError, match="`teacher_more` is not made yet"):
        run_module.report_run(folder.path)
