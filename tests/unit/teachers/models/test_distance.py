"""How far an expert is from its base: by hand, in pieces, for adapters, and where it cannot be said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from teachers.models import distance as module
from teachers.models.distance import is_unchanged, weight_distance
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.model_copies import changed_copy, weights_of
from tests.helpers.paths import STUDENT


def write(folder, tensors):
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file(
        {name: np.array(value, "float32") for name, value in tensors.items()}, folder / "model.safetensors"
    )
    return folder


def test_by_hand(tmp_path):
    base = write(tmp_path / "base", {"a": [[3.0, 0.0], [0.0, 0.0]], "b": [4.0], "c": [12.0]})
    expert = write(tmp_path / "expert", {"a": [[3.0, 0.0], [0.0, 1.5]], "b": [6.0], "c": [12.0]})
    found = weight_distance(base, expert)
    assert found["relative_l2"] == pytest.approx(2.5 / 13.0)  # sqrt(1.5^2 + 2^2) over sqrt(9 + 16 + 144)
    assert found["changed_share"] == pytest.approx(2 / 3) and found["tensors"] == 3
    assert found["largest"] == {"name": "a", "relative_l2": pytest.approx(0.5)}
    assert not is_unchanged(found)


def test_blocks_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    tensors = {"a": rng.normal(size=(7, 5)), "b": rng.normal(size=9), "c": np.float32(2.0)}
    moved = {name: value + rng.normal(size=np.shape(value)) for name, value in tensors.items()}
    folders = write(tmp_path / "base", tensors), write(tmp_path / "expert", moved)
    whole = weight_distance(*folders)
    monkeypatch.setattr(module, "BLOCK", 10)  # two rows of `a` at once
    pieces = weight_distance(*folders)
    assert pieces["relative_l2"] == pytest.approx(whole["relative_l2"], rel=1e-12)
    joined = [np.concatenate([np.ravel(np.float32(t)) for t in part.values()]) for part in (tensors, moved)]
    by_numpy = np.linalg.norm(np.float64(joined[1]) - joined[0]) / np.linalg.norm(np.float64(joined[0]))
    assert whole["relative_l2"] == pytest.approx(by_numpy, rel=1e-6)


def test_tensors_are_matched_by_name_over_files(tmp_path):
    from safetensors.numpy import save_file

    base = write(tmp_path / "base", {"a": [1.0, 2.0], "b": [2.0]})
    split = tmp_path / "split"
    split.mkdir()
    for name, value in (("b", [2.0]), ("a", [1.0, 2.0])):
        save_file({name: np.array(value, "float32")}, split / f"model-{name}.safetensors")
    index = {"weight_map": {name: f"model-{name}.safetensors" for name in "ab"}}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    found = weight_distance(base, split)
    assert (found["relative_l2"], found["changed_share"], found["largest"]) == (0, 0, None)
    assert is_unchanged(found)


def test_a_stored_copy_of_a_tied_embedding_is_left_out(tmp_path):
    base = write(tmp_path / "base", {"embed": [1.0, 2.0]})
    expert = write(tmp_path / "expert", {"embed": [1.0, 3.0], "lm_head.weight": [1.0, 3.0]})
    assert weight_distance(base, expert)["relative_l2"] == pytest.approx(1 / math.sqrt(5))


@pytest.mark.parametrize("other", [{"a": [1.0, 2.0, 3.0]}, {"b": [1.0, 2.0]}, {"a": [1.0, 2.0], "b": [1.0]}])
def test_other_shapes_are_not_measured(tmp_path, other):
    found = weight_distance(write(tmp_path / "base", {"a": [1.0, 2.0]}), write(tmp_path / "expert", other))
    assert found == {"not_measured": "other shapes"} and not is_unchanged(found)


def test_what_is_no_number_is_not_measured(tmp_path):
    folders = write(tmp_path / "base", {"a": [1.0]}), write(tmp_path / "expert", {"a": [math.nan]})
    assert weight_distance(*folders) == {"not_measured": "weights that are no finite numbers"}


def test_a_change_from_nothing_but_zeros_is_the_largest(tmp_path):
    base = write(tmp_path / "base", {"a": [1.0], "z": [0.0]})
    found = weight_distance(base, write(tmp_path / "expert", {"a": [9.0], "z": [1e-3]}))
    assert found["largest"] == {"name": "z", "relative_l2": None}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}], ids=str)
def test_an_adapter_is_as_far_as_the_model_it_makes(tmp_path, settings):
    from teachers.registry.local import Registry
    from teachers.registry.merged import merged_model

    adapter = write_adapter(tmp_path / "adapter", seed=1, rank=3, alpha=5, **settings)
    full = weight_distance(STUDENT, merged_model(STUDENT, adapter, Registry(tmp_path / "home")))
    own = weight_distance(STUDENT, adapter)
    assert own["relative_l2"] == pytest.approx(full["relative_l2"], rel=1e-4)
    assert (own["changed_share"], own["tensors"]) == (full["changed_share"], full["tensors"])
    assert own["largest"]["name"] == full["largest"]["name"]


def test_an_adapter_of_zeros_is_its_base(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", scale=0.0)
    assert is_unchanged(weight_distance(STUDENT, adapter))


def test_the_demo_student_plus_one(tmp_path):
    expert = changed_copy(tmp_path / "expert", lambda _, value: value + 1)
    weights = weights_of(STUDENT)
    count = sum(value.size for value in weights.values())
    norm = math.sqrt(sum(float(np.square(value, dtype="float64").sum()) for value in weights.values()))
    found = weight_distance(STUDENT, expert)
    assert found["relative_l2"] == pytest.approx(math.sqrt(count) / norm, rel=1e-5)
    assert found["changed_share"] == 1
