"""The scorer's benchmark counts what it says: its models, its passes, its bytes. Nothing here is timed."""

from __future__ import annotations

import json

import pytest

from benchmarks import scorer as benchmark
from benchmarks.scorer_models import RANK, SIZES, make_models
from teachers.scoring.scorer import SharedScorer

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("full"), "full", "demo", teachers=3)


def tensors(folder: str, file: str = "model.safetensors"):
    from safetensors.torch import load_file

    return load_file(f"{folder}/{file}")


def test_full_teachers_differ_from_the_base_in_every_matrix(models):
    assert list(models) == ["reference", "teacher_0", "teacher_1", "teacher_2"]
    base, first, second = (tensors(models[name]) for name in ("reference", "teacher_0", "teacher_1"))
    assert base.keys() == first.keys() and sum(value.numel() for value in base.values()) == 829_312
    for name, value in base.items():
        assert (first[name] - value).std() == pytest.approx(0.01, rel=0.25), name
        assert not torch.equal(first[name], second[name])


def test_lora_teachers_are_peft_folders_whose_b_is_not_zero(tmp_path):
    pytest.importorskip("peft")
    made = make_models(tmp_path, "lora", "demo", teachers=2)
    settings = json.loads((tmp_path / "teacher_1" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"]) == ("LORA", RANK)
    assert settings["base_model_name_or_path"] == made["reference"]
    weights = tensors(made["teacher_1"], "adapter_model.safetensors")
    b = [value for name, value in weights.items() if "lora_B" in name]
    assert len(b) == 4 * 7 and all(value.std() > 0.005 and value.shape[1] == RANK for value in b)
    other = tensors(made["teacher_0"], "adapter_model.safetensors")
    assert all(not torch.equal(other[name], value) for name, value in weights.items())


def test_passes_and_bytes(models):
    scorer = SharedScorer(models, "cpu", "float32", 4096)
    rollouts = benchmark.make_rollouts(7, SIZES["demo"]["vocab_size"])
    benchmark.score_routed(scorer, rollouts)
    assert scorer.passes == {"teacher_0": 3, "teacher_1": 2, "teacher_2": 2, "reference": 7}
    assert benchmark.held_bytes(scorer) == 4 * 829_312 * 4  # the module's weights are one model's
    scorer.passes.clear()
    benchmark.score_by_every_teacher(scorer, rollouts)
    assert scorer.passes == dict.fromkeys(models, 7)


def test_a_row_of_the_table():
    found = benchmark.Measurement(3 * 2**20, 5 * 2**20, 2.0, 5.0, 1000, 0.5, 1.25, 1.0, 9.0)
    two = benchmark.Measurement(0, 0, 2.0, 3.0, 1000, 0.4, 0.6, 0.0, 0.0)
    row = vars(found) | benchmark.ratios(found, two) | {"size": "demo", "kind": "full", "teachers": 4}
    expected = ["demo", "full", "4", "3.0", "5.0", "2.0", "2000", "0.80x", "2.50x"]
    assert benchmark.line(row).split() == expected
