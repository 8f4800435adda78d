"""The baselines of a run: each made once, made again for other options, named in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.load import load_config
from merging import run as run_module
from merging.checks.preflight import preflight
from merging.reports.reporting import curves, provenance
from merging.training import distil
from tests.helpers.messages import refuses
from tests.helpers.model_copies import noisy_copy, weights_of
from tests.helpers.opened_runs import open_run
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import sum_rows, write_config, write_jsonl

pytest.importorskip("torch")

TIES = "baselines=[{kind: ties, density: 0.5}]"


@pytest.fixture
def opened(tmp_path):
    """Opens tmp_path/run, with two given experts; returns its folder and its teachers."""
    for seed, name in enumerate(("math", "code")):
        noisy_copy(tmp_path / f"{name}_expert", seed)
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{**row, "prompt": f"{name} {row['prompt']}"} for row in sum_rows(4)]
        )
    config = {
        "name": "demo",
        "student": str(STUDENT),
        "domains": {
            name: {
                "expert": {"kind": "model", "path": f"{name}_expert"},
                "prompts": {"kind": "file", "path": f"{name}.jsonl"},
                "reward": "exact",
            }
            for name in ("math", "code")
        },
        "training": {"steps": 2, "prompts_per_step": 4, "max_prompt_tokens": 24, "max_response_tokens": 16},
        "hardware": {"device": "cpu"},
        "registry": "home",
    }  # fmt: skip
    path = write_config(tmp_path, config)

    def opened(*overrides):
        run = open_run(load_config(path, overrides), tmp_path / "run")
        return run.folder, run.teachers()

    return opened


def train(folder, teachers):
    run_module.train_baselines(folder, teachers, [], run_module.NoCluster())


def task_vector(folder: Path):
    base, weights = weights_of(STUDENT), weights_of(folder)
    return np.concatenate([(weights[name] - base[name]).ravel() for name in base])


def test_every_kind_is_made_of_base_and_experts(opened):
    folder, teachers = opened("baselines=[average, task_arithmetic, ties, dare, extrapolation]")
    train(folder, teachers)
    found = {b.kind: task_vector(folder.baseline(b.kind)) for b in folder.config.baselines}
    math, code = (task_vector(Path(teacher.model_path)) for teacher in teachers)
    for kind, factor in (("average", 0.5), ("task_arithmetic", 1.0), ("extrapolation", 0.625)):
        np.testing.assert_allclose(found[kind], factor * (math + code), atol=1e-6, err_msg=kind)
    assert (found["dare"] == 0).mean() == pytest.approx(0.81, abs=0.01)
    # of two vectors each keeps a fifth: none at 0.64 of the weights, and where both keep one, one sign wins
    assert (found["ties"] == 0).mean() == pytest.approx(0.64, abs=0.02)


def test_a_baseline_is_made_once_and_again_for_other_options(opened):
    folder, teachers = opened(TIES)
    train(folder, teachers)
    file = folder.baseline("ties") / "model.safetensors"
    before, first = file.stat().st_mtime_ns, weights_of(folder.baseline("ties"))
    train(folder, teachers)
    assert file.stat().st_mtime_ns == before
    folder, teachers = opened("baselines=[ties]")
    train(folder, teachers)
    assert any((value != first[name]).any() for name, value in weights_of(folder.baseline("ties")).items())
    declared = json.loads((folder.baseline("ties") / "baseline.json").read_text())
    assert declared == {"kind": "ties", "density": 0.2, "scale": 1.0}


def test_an_average_without_a_record_is_kept(opened):
    folder, teachers = opened("baselines=[average]")
    shutil.copytree(STUDENT, folder.baseline("average"))
    train(folder, teachers)
    assert not task_vector(folder.baseline("average")).any()


def test_distilled_baselines_are_the_merge_at_their_lambda_and_again_where_it_changes(opened, monkeypatch):
    trained = []

    class Distillation:
        def __init__(self, folder, teachers, name, work, reward_scale):
            self.given = (name, work.name, reward_scale, (work / "old").exists())
            self.work = work

        def run(self, cluster, target):
            trained.append((*self.given, target.name))
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            (self.work / "old").touch()

    monkeypatch.setattr(distil, "Distillation", Distillation)
    folder, teachers = opened("baselines=[dare, opd, interpolation]")
    for _ in range(2):
        train(folder, teachers)
    both = [
        ("opd", "opd", 1.0, False, "opd"),
        ("interpolation", "interpolation", 0.5, False, "interpolation"),
    ]
    assert trained == both
    folder, teachers = opened("baselines=[opd, {kind: interpolation, reward_scale: 0.75}]")
    train(folder, teachers)
    # begun anew: the work of the other lambda is not continued
    assert trained == [*both, ("interpolation", "interpolation", 0.75, False, "interpolation")]


class Begun(Exception):
    """Ends a training where it would begin; keeps the file of its rows."""

    def __init__(self, train_file):
        self.train_file = train_file


def test_rows_of_a_distilled_baseline_are_the_merges_at_its_lambda(opened, monkeypatch, tmp_path):
    def begun(config, name, paths, prompts, *_):
        raise Begun(prompts)

    folder, teachers = opened("baselines=[interpolation]")
    run_module.write_prompts(
        folder, preflight(load_config(folder.path / "config.resolved.yaml"), folder.path)
    )
    rows = pq.read_table(folder.prompts_file)
    training = distil.Distillation(folder, teachers, "interpolation", folder.path / "interpolation", 0.5)
    monkeypatch.setattr("merging.exopd.job.merge_job", begun)
    with pytest.raises(Begun) as job:
        training.run(run_module.NoCluster(), tmp_path / "model")
    own = pq.read_table(job.value.train_file)
    assert set(own.column("reward_scale").to_pylist()) == {0.5}
    assert set(rows.column("reward_scale").to_pylist()) == {1.25}
    assert own.drop(["reward_scale"]).equals(rows.drop(["reward_scale"]))


def test_a_baseline_of_other_options_is_not_evaluated(opened, monkeypatch):
    monkeypatch.setattr(run_module, "evaluate_models", lambda folder, teachers: {})
    monkeypatch.setattr(run_module, "report", lambda folder, teachers, samples: "report")
    folder, teachers = opened(TIES)
    shutil.copytree(STUDENT, folder.student)
    run_module.write_prompts(
        folder, preflight(load_config(folder.path / "config.resolved.yaml"), folder.path)
    )
    train(folder, teachers)
    assert run_module.evaluate_run(folder.path) == "report"
    folder, _ = opened("baselines=[ties]")  # as a merge that was stopped before it made them
    with refuses("baseline `ties`", "not made", "`protege merge`"):
        run_module.evaluate_run(folder.path)


def test_the_report_tells_a_baselines_options(opened, tmp_path):
    folder, teachers = opened("baselines=[average, dare]")
    found = provenance(SimpleNamespace(config=folder.config, student=STUDENT, counts=dict), teachers)
    assert found["baseline dare"] == "drop_rate 0.9, scale 1.0, seed 42"
    assert "baseline average" not in found
    assert "baseline opd" not in curves(folder, teachers)
    assert curves(opened("baselines=[opd]")[0], teachers)["baseline opd"] == []
