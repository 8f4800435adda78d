"""The routed oracle: the teachers' answers as one model, compared but counted once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from configs.load import load_config
from eval.report.build import build
from eval.report.data import BenchmarkInfo, ModelInfo
from eval.report.from_samples import from_samples
from eval.report.render import to_json
from eval.report.wording import label_of
from merging.baselines.oracle import oracle_model, with_oracle
from tests.helpers.run_folders import answers, config_of, write_key
from tests.helpers.tiny_model import write_config

RIGHT = {
    "math-teacher": [1, 1, 0, 0, 1, 1],
    "code-teacher": [0, 0, 0, 1, 0, 0],
    "student": [1, 1, 1, 1, 1, 1],
}


@pytest.fixture
def folder(tmp_path):
    """A run of two domains with a benchmark each, answered by both teachers and the student."""
    math = config_of("demo")["domains"]["math"]
    code = {**math, "benchmarks": [{"kind": "math", "name": "lists", "path": "/data/lists.jsonl"}]}
    config = {**config_of("demo"), "domains": {"math": math, "code": code}, "baselines": ["oracle"]}
    loaded = load_config(write_config(tmp_path, config))
    for model in RIGHT:
        for benchmark in ("sums", "lists"):
            place = tmp_path / "samples" / model / f"{benchmark}.jsonl"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("")
            write_key(place, "grading")
    names = {"math": "math-teacher", "code": "code-teacher"}
    return SimpleNamespace(config=loaded.config, samples=tmp_path / "samples", teacher_names=lambda: names)


@pytest.fixture
def samples():
    return {
        (model, benchmark): answers(right, benchmark)
        for model, right in RIGHT.items()
        for benchmark in ("sums", "lists")
    }


def test_each_benchmark_is_answered_by_its_own_teacher(folder, samples):
    found = with_oracle(folder, samples)
    assert found["oracle", "sums"] == samples["math-teacher", "sums"]
    assert found["oracle", "lists"] == samples["code-teacher", "lists"]
    assert ("oracle", "sums") not in samples
    lines = (folder.samples / "oracle" / "sums.jsonl").read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == [
        sample.verdict for sample in samples["math-teacher", "sums"]
    ]
    assert (folder.samples / "oracle" / "lists.key.json").exists()


def test_nothing_is_added_where_it_is_not_declared(folder, samples):
    folder.config = folder.config.model_copy(update={"baselines": ()})
    assert with_oracle(folder, samples) == samples and oracle_model(folder) == []
    assert not (folder.samples / "oracle").exists()


def reported(models, samples):
    infos = [BenchmarkInfo("sums", "math", "sampled"), BenchmarkInfo("lists", "code", "sampled")]
    data = build(
        run="demo", created="2026-01-02", config_yaml="", evaluation=from_samples(samples, models, infos, 1),
        margin=0.02, temperature=1.0,
        objective={"math": 1.25, "code": 1.25}, routing={}, curves={}, wall_seconds={},
        peak_memory_bytes=None, provenance={},
    )  # fmt: skip
    return data, to_json(data)


def test_it_is_compared_and_changes_no_correction_and_no_verdict(folder, samples):
    models = [
        ModelInfo("student", "student"),
        ModelInfo("math-teacher", "teacher", "math"),
        ModelInfo("code-teacher", "teacher", "code"),
    ]
    _, without = reported(models, samples)
    data, report = reported([*models, *oracle_model(folder)], with_oracle(folder, samples))
    assert report["verdicts"] == without["verdicts"]
    others = [row for row in report["comparisons"] if row["against"] != "oracle"]
    assert others == without["comparisons"] and report["questions"] == without["questions"]
    assert {(row["primary"], row["family"]) for row in others} == {(True, 2), (False, 2)}
    assert not any(row["primary"] for row in report["comparisons"] if row["against"] == "oracle")
    for benchmark, teacher in (("sums", "math-teacher"), ("lists", "code-teacher")):
        own, oracle = (data.comparison(name, benchmark) for name in (teacher, "oracle"))
        assert (own.difference, own.lo, own.p_adjusted) == (oracle.difference, oracle.lo, oracle.p_adjusted)
        assert own.verdict == oracle.verdict
    assert report["models"]["oracle"]["benchmarks"]["sums"]["accuracy"] == pytest.approx(4 / 6)
    assert label_of("oracle", "baseline") == "the routed oracle"
