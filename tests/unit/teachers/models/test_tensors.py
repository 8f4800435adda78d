"""A model is what its files hold: nothing is filled with random numbers, in check and in the scorer alike."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.errors import ConfigError
from teachers.models import files
from teachers.models import fingerprint as fp
from teachers.models.modules import loaded
from teachers.scoring.scorer import SharedScorer
from tests.helpers.messages import refuses
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import write_json


def copy_with(target, rename, **settings):
    """The demo student under other tensor names; those that `rename` makes empty are left out."""
    shutil.copytree(STUDENT, target)
    weights = load_file(target / "model.safetensors")
    kept = {rename(name): value for name, value in weights.items() if rename(name)}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}), encoding="utf-8")
    return target


def is_tied():
    return json.loads((STUDENT / "config.json").read_text()).get("tie_word_embeddings", False)


def test_the_demos_own_files_pass():
    fp.check_tensors(fp.fingerprint(STUDENT), "student")
    assert loaded(STUDENT).config.vocab_size


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_names_that_a_wrapper_left_are_refused(tmp_path, prefix):
    folder = copy_with(tmp_path / "wrapped", lambda name: prefix + name)
    with pytest.raises(ConfigError, match=r"domains\.math\.expert .*wrapper"):
        fp.check_tensors(fp.fingerprint(folder), "domains.math.expert")


def test_a_wrapped_layer_is_refused(tmp_path):
    folder = copy_with(
        tmp_path / "inner", lambda name: name.replace("model.layers.0.", "model.layers.0._orig_mod.")
    )
    with pytest.raises(ConfigError, match="_orig_mod"):
        fp.check_tensors(fp.fingerprint(folder), "student")


def test_an_untied_model_without_a_head_is_refused(tmp_path):
    folder = copy_with(
        tmp_path / "headless",
        lambda name: "" if name == "lm_head.weight" else name,
        tie_word_embeddings=False,
    )
    with pytest.raises(ConfigError, match=r"lack 1 tensor of a LlamaForCausalLM, such as lm_head\.weight"):
        fp.check_tensors(fp.fingerprint(folder), "student")


def test_a_tied_model_needs_none(tmp_path):
    folder = copy_with(
        tmp_path / "tied", lambda name: "" if name == "lm_head.weight" else name, tie_word_embeddings=True
    )
    fp.check_tensors(fp.fingerprint(folder), "student")


def changed(target, change, **settings):
    """The demo student with other tensors, by name."""
    shutil.copytree(STUDENT, target)
    weights = load_file(target / "model.safetensors")
    save_file(change(dict(weights)), target / "model.safetensors", metadata={"format": "pt"})
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}), encoding="utf-8")
    return target


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def test_a_tied_head_may_be_written_out(tmp_path):
    without = changed(
        tmp_path / "a", lambda w: {k: v for k, v in w.items() if k != HEAD}, tie_word_embeddings=True
    )
    written = changed(tmp_path / "b", lambda w: w | {HEAD: w[EMBEDDING].copy()}, tie_word_embeddings=True)
    first, second = fp.fingerprint(without), fp.fingerprint(written)
    fp.check_tensors(second, "student")
    assert (first.shapes_sha256, first.parameters) == (second.shapes_sha256, second.parameters)


def test_a_tied_head_that_is_another_is_refused(tmp_path):
    folder = changed(tmp_path / "a", lambda w: w | {HEAD: w[EMBEDDING] + 1}, tie_word_embeddings=True)
    with pytest.raises(ConfigError, match=r"lm_head\.weight.*tie_word_embeddings"):
        fp.check_tensors(fp.fingerprint(folder), "student")


MISFITS = {
    "a tensor too many": (
        lambda w: w | {"value_head.weight": np.zeros((1, 128), "float32")},
        "value_head.weight",
    ),
    "another shape": (
        lambda w: w | {EMBEDDING: w[EMBEDDING][:-1]},
        r"embed_tokens.weight.*\[98, 128\].*\[99, 128\]",
    ),
    "a layer less": (
        lambda w: {k: v for k, v in w.items() if ".layers.3." not in k},
        r"9 tensors.*layers\.3\.",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_what_the_architecture_does_not_have_is_refused(tmp_path, what):
    change, said = MISFITS[what]
    folder = changed(tmp_path / "a", change)
    with pytest.raises(ConfigError, match=said):
        fp.check_tensors(fp.fingerprint(folder), "student")


def test_settings_that_no_model_can_have_are_refused(tmp_path):
    folder = changed(tmp_path / "a", lambda w: w, num_attention_heads=0)
    with pytest.raises(ConfigError):
        fp.check_tensors(fp.fingerprint(folder), "student")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_scorer_holds_no_weight_that_is_not_finite(tmp_path, value):
    def spoilt(w):
        w["model.norm.weight"] = w["model.norm.weight"].copy()
        w["model.norm.weight"][3] = value
        return w

    folder = changed(tmp_path / "a", spoilt)
    with pytest.raises(ValueError, match=r"model\.norm\.weight.*not finite"):
        SharedScorer({"math": str(folder)}, "cpu", "float32", 64)


def test_of_several_weights_those_are_read_that_every_engine_reads(tmp_path):
    folder = changed(tmp_path / "a", lambda w: w)
    whole = folder / "model.safetensors"
    shutil.copy(whole, folder / "other.safetensors")
    with refuses("model.safetensors", "other.safetensors", "vLLM"):
        fp.fingerprint(folder)
    (folder / "other.safetensors").rename(folder / "consolidated.safetensors")
    assert files.weight_files(folder) == [whole]
    index = folder / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": "../elsewhere.safetensors"}})
    for name in ("x" * 300, "..", "", "a\0b", "\ud800"):
        write_json(index, {"weight_map": {"a": name}})
        with refuses(index):
            fp.fingerprint(folder)
    write_json(index, {"weight_map": {"a": "../elsewhere.safetensors"}})
    with refuses(index, "../elsewhere.safetensors"):
        fp.fingerprint(folder)
    whole.rename(folder / "model-00001-of-00001.safetensors")
    write_json(index, {"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    assert files.weight_files(folder) == [folder / "model-00001-of-00001.safetensors"]
    index.unlink()
    with refuses("no weights that transformers finds"):
        fp.fingerprint(folder)


@pytest.mark.parametrize("lacks", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_the_scorer_holds_no_weight_that_came_from_no_file(tmp_path, lacks):
    folder = copy_with(tmp_path / "lacking", lambda name: "" if name == lacks else name)
    for load in (loaded, lambda path: SharedScorer({"math": str(path)}, "cpu", "float32", 64)):
        with pytest.raises(ValueError, match=f"lack 1 tensor .*{lacks}"):
            load(folder)
