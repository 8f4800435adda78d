"""The grid of a sweep, what is refused, what its runs share, and the order in which things happen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.locks import RunLock
from configs.load import load_config
from merging import sweep as module
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT

QUICKSTART = ROOT / "configs" / "runs" / "quickstart.yaml"


def grid(tmp_path, scales=(1.25, 1.0), seeds=2, overrides=()):
    return module.grid(load_config(QUICKSTART, overrides), scales, seeds, tmp_path)


def test_every_lambda_and_seed_is_a_run_of_its_own(tmp_path):
    runs = grid(tmp_path, overrides=["training.seed=7", "training.steps=3"])
    assert [run.name for run in runs] == [
        "lambda-1.seed-7", "lambda-1.25.seed-7", "lambda-1.seed-8", "lambda-1.25.seed-8",
    ]  # fmt: skip
    for run in runs:
        config = run.loaded.config
        assert (config.objective.reward_scale, config.training.seed) == (run.reward_scale, run.seed)
        assert config.training.steps == 3
        assert config.name == f"quickstart.{run.name}"
        assert config.domains["math"].expert.seed == 0  # experts are the same for all


def test_auto_is_replaced_by_the_grids_lambdas(tmp_path):
    runs = grid(tmp_path, overrides=["objective.reward_scale=auto"])
    assert {run.loaded.config.reward_scale_of("math") for run in runs} == {1.0, 1.25}


def test_opd_is_not_trained_twice(tmp_path):
    def kinds(scales):
        runs = grid(tmp_path, scales, overrides=["baselines=[average,opd,{kind: ties, density: 0.5}]"])
        return {tuple(baseline.kind for baseline in run.loaded.config.baselines) for run in runs}

    assert kinds((1.0, 1.25)) == {("average", "ties")}
    assert kinds((1.25,)) == {("average", "opd", "ties")}
    grpo = "baselines=[opd,{kind: grpo, samples_per_prompt: 4}]"  # has no lambda: each run has its own
    (run,) = grid(tmp_path, (1.0,), 1, [grpo])
    assert [b.model_dump(exclude_none=True) for b in run.loaded.config.baselines] == [
        {"kind": "grpo", "samples_per_prompt": 4}
    ]
    (run,) = grid(tmp_path, (1.0,), 1, ["baselines=[opd,{kind: ties, density: 0.5}]"])
    assert run.loaded.config.baselines[0].density == 0.5


def test_a_domains_own_lambda_is_refused(tmp_path):
    with refuses("domains.code.objective.reward_scale", "sweep"):
        grid(tmp_path, overrides=["domains.code.objective.reward_scale=2"])
    grid(tmp_path, overrides=["domains.code.objective.weight=2"])


def test_long_names_still_fit(tmp_path):
    assert len(grid(tmp_path, overrides=["name=" + "n" * 64])[0].loaded.config.name) <= 64


class FakeGenerator:
    made: list[FakeGenerator] = []  # noqa: RUF012

    def __init__(self, *, log_path, **settings):
        self.settings, self.closed = settings, False
        self.made.append(self)

    def close(self):
        self.closed = True


def test_one_engine_serves_evaluations_of_equal_settings(monkeypatch):
    import eval.generation.generate

    monkeypatch.setattr(eval.generation.generate, "Generator", FakeGenerator)
    monkeypatch.setattr(FakeGenerator, "made", [])
    with module.one_generator() as make:
        with make(log_path=Path("a"), device="cpu", max_model_len=10) as first:
            pass
        assert not first.closed
        with make(log_path=Path("b"), device="cpu", max_model_len=10) as second:
            assert second is first
        with make(log_path=Path("c"), device="cpu", max_model_len=20) as third:
            assert third is not first and first.closed
    assert third.closed and len(FakeGenerator.made) == 2


@pytest.fixture
def stages(monkeypatch):
    """Training and evaluation replaced by notes of what was called; folders, locks and checks are real."""
    said: list[str] = []

    def train(folder, teachers, cluster):
        said.append(f"train {folder.path.name}")
        (folder.train / "checkpoints").mkdir(parents=True)
        folder.student.mkdir()

    def evaluate(folder, teachers, make_generator):
        said.append(f"evaluate {folder.path.name}")
        assert not (folder.train / "checkpoints").exists()
        with pytest.raises(ConfigError, match="in use by a live run"), RunLock(folder.path):
            pass
        return {"samples of": folder.path.name}

    def write(sweep_dir, runs, folders, teachers, samples, measured):
        said.append("report")
        assert [samples[run] for run in runs] == [{"samples of": run.name} for run in runs]
        assert measured.wall_seconds.keys() == {"experts", "merges", "evaluation"}
        return sweep_dir / "sweep.html"

    monkeypatch.setattr(module, "experts", lambda folder, found, cluster: said.append("experts") or [])
    monkeypatch.setattr(module, "train_student", train)
    monkeypatch.setattr(module, "train_baselines", lambda *given: None)
    monkeypatch.setattr(module, "evaluate_models", evaluate)
    monkeypatch.setattr("merging.reports.sweep_report.write", write)
    return said


def test_experts_come_once_and_evaluation_after_all_trainings(tmp_path, stages):
    page = module.sweep(QUICKSTART, [], [1.0, 1.25], 1, tmp_path / "sweep")
    assert page == tmp_path / "sweep" / "sweep.html"
    assert stages == [
        "experts", "train lambda-1.seed-0", "train lambda-1.25.seed-0",
        "evaluate lambda-1.seed-0", "evaluate lambda-1.25.seed-0", "report",
    ]  # fmt: skip
    run = tmp_path / "sweep" / "lambda-1.25.seed-0"
    assert load_config(run / "config.resolved.yaml").config.objective.reward_scale == 1.25
    assert (run / "prompts" / "train.parquet").exists()


def test_checkpoints_of_every_trained_baseline_are_deleted(tmp_path, stages, monkeypatch):
    def train(folder, teachers, routed, cluster):
        assert Counter(item.domain for item in routed).keys() == folder.config.domains.keys()
        for kind in ("opd", "grpo"):
            (folder.path / kind / "checkpoints").mkdir(parents=True)

    monkeypatch.setattr(module, "train_baselines", train)
    overrides = ["baselines=[opd, {kind: grpo, samples_per_prompt: 4}]"]
    module.sweep(QUICKSTART, overrides, [1.25], 1, tmp_path / "sweep")
    run = tmp_path / "sweep" / "lambda-1.25.seed-0"
    for kind in ("opd", "grpo"):
        assert (run / kind).exists() and not (run / kind / "checkpoints").exists()


def test_a_probe_without_answers_is_refused_before_anything_is_trained(tmp_path, stages):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "Math: 1+2"}\n')
    overrides = [
        f"domains.math.validation.path={bare}",
        "domains.math.validation.columns.answer=null",
    ]
    with refuses("domains.math", "no prompt", "answer"):
        module.sweep(QUICKSTART, overrides, [1.0], 1, tmp_path / "sweep", with_probe=True)
    assert stages == []
    module.sweep(QUICKSTART, overrides, [1.0], 1, tmp_path / "sweep")


def test_a_sweep_in_use_is_refused(tmp_path, stages):
    with RunLock(tmp_path / "sweep"), pytest.raises(ConfigError, match="in use by a live run"):
        module.sweep(QUICKSTART, [], [1.0], 1, tmp_path / "sweep")
    assert stages == []


def test_another_merge_in_the_folder_is_refused(tmp_path, stages):
    module.sweep(QUICKSTART, [], [1.0], 1, tmp_path / "sweep")
    with refuses("another merge", "training"):
        module.sweep(QUICKSTART, ["training.steps=5"], [1.0], 1, tmp_path / "sweep")


def test_too_little_disk_for_all_runs_is_refused(tmp_path, stages, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    alone = load_config(QUICKSTART, ["baselines=[]"])
    found = module.preflight(alone, tmp_path / "x")
    free = found.disk_bytes + 4 * found.fingerprints["student"].parameters
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=free))
    module.sweep(QUICKSTART, ["baselines=[]"], [1.0, 1.25], 1, tmp_path / "fits")
    with refuses("disk", "3 runs"):
        module.sweep(QUICKSTART, ["baselines=[]"], [1.0, 1.25, 2.0], 1, tmp_path / "not")
    assert not (tmp_path / "not").exists()
