"""Fingerprints: what changes them, what does not, and which mismatch is refused in which words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from common.errors import ConfigError
from teachers.models import fingerprint as fp
from tests.helpers.messages import problems_of, refuses, say_each
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import CHARACTERS, TEMPLATE, parameters, write_json, write_model


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return write_model(tmp_path / "student")


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def test_fields_of_a_known_folder(student):
    found = fp.fingerprint(student)
    tokens = len(CHARACTERS) + 3
    assert (found.vocab_size, found.tokenizer_size) == (tokens, tokens)
    assert found.eos_token_ids == (len(CHARACTERS) + 1,)
    assert found.chat_template_sha256 == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert (found.max_position_embeddings, found.architecture) == (64, "LlamaForCausalLM")
    assert found.parameters == parameters(tokens)


def test_tokenizer_size_is_transformers_length(student):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(student)
    assert fp.fingerprint(student).tokenizer_size == len(tokenizer)
    assert fp.fingerprint(student).eos_token_ids == (tokenizer.eos_token_id,)


def test_a_copy_elsewhere_has_the_same_fingerprint(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    ours, copy = fp.fingerprint(student), fp.fingerprint(tmp_path / "copy")
    assert {**vars(ours), "path": ""} == {**vars(copy), "path": ""}


def test_weights_change_only_the_weights(student, tmp_path):
    ours, other = fp.fingerprint(student), fp.fingerprint(write_model(tmp_path / "other", value=0.25))
    assert ours.weights_sha256 != other.weights_sha256
    assert ours.shapes_sha256 == other.shapes_sha256
    fp.check_compatible(ours, other, "teacher")


def test_rewritten_weights_are_read_again(student):
    before = fp.fingerprint(student)
    write_model(student, value=0.75)
    assert fp.fingerprint(student).weights_sha256 != before.weights_sha256


def test_tokenizer_digest_ignores_how_the_file_is_spelt(student, tmp_path):
    bpe = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    write_json(student / "tokenizer.json", {"model": bpe, "added_tokens": [{"id": 3, "content": "<eos>"}]})
    other = shutil.copytree(student, tmp_path / "other")
    spelt = {"type": "BPE", "vocab": {"ab": 2, "b": 1, "a": 0, "<eos>": 3}, "merges": [["a", "b"]]}
    (other / "tokenizer.json").write_text(json.dumps({"model": spelt, "added_tokens": None}, indent=3))
    assert fp.fingerprint(student).tokenizer_sha256 == fp.fingerprint(other).tokenizer_sha256
    spelt["merges"] = []
    write_json(other / "tokenizer.json", {"model": spelt})
    with refuses("tokenizer", "same vocabulary", "other merges"):
        fp.check_compatible(fp.fingerprint(student), fp.fingerprint(other), "t")


def test_unigram_vocabularies_are_read(student):
    pieces = [["<unk>", 0.0], ["a", -1.0], ["<eos>", -2.0]]
    write_json(student / "tokenizer.json", {"model": {"type": "Unigram", "vocab": pieces}})
    found = fp.fingerprint(student)
    assert (found.tokenizer_size, 2 in found.eos_token_ids) == (3, True)


def test_other_tokenizer_is_refused_with_the_first_difference(student, tmp_path):
    other = write_model(tmp_path / "other", extra_tokens=("<tool>",))
    size = len(CHARACTERS) + 3
    place, difference = f"domains.math.expert ({other})", (f"id {size}", "'<tool>'", "'unused'")
    with refuses(place, "tokenizer", "student's", f"{size + 1} tokens", size, *difference):
        fp.check_compatible(fp.fingerprint(student), fp.fingerprint(other), "domains.math.expert")


def test_other_eos_and_template_are_two_messages(student, tmp_path):
    other = write_model(tmp_path / "other", eos="<end>", template="{{ messages }}")
    first = len(CHARACTERS) + 1
    digests = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in ("{{ messages }}", TEMPLATE)]
    say_each(
        problems_of(fp.check_compatible, fp.fingerprint(student), fp.fingerprint(other), "t"),
        ("EOS", "student's", f"[{first + 1}]", f"[{first}]"),
        ("chat template", "student's", *digests),
    )


def test_eos_joins_tokenizer_and_generation_config(student):
    write_json(student / "generation_config.json", {"eos_token_id": [98, 96]})
    assert fp.fingerprint(student).eos_token_ids == (96, 97, 98)
    (student / "generation_config.json").unlink()
    edit(student / "config.json", lambda config: config.update(eos_token_id=98))
    assert fp.fingerprint(student).eos_token_ids == (97, 98)


def test_eos_token_may_be_written_as_an_object(student):
    before = fp.fingerprint(student)
    edit(student / "tokenizer_config.json", lambda c: c.update(eos_token={"content": "<eos>"}))
    assert fp.fingerprint(student).eos_token_ids == before.eos_token_ids


def test_chat_template_file_comes_first(student):
    before = fp.fingerprint(student)
    (student / "chat_template.jinja").write_text(TEMPLATE)
    assert fp.fingerprint(student) == before
    (student / "chat_template.jinja").write_text("{{ messages }}")
    assert fp.fingerprint(student).chat_template_sha256 != before.chat_template_sha256


def test_a_vocabulary_rounded_up_for_the_hardware_passes(student):
    qwen = dataclasses.replace(fp.fingerprint(student), vocab_size=151936, tokenizer_size=151669)
    fp.check_vocabulary(qwen, "student")
    with pytest.raises(ConfigError, match="vocab_size 151670"):
        fp.check_vocabulary(dataclasses.replace(qwen, vocab_size=151670), "student")


def test_vocabulary_must_fit(student, tmp_path):
    fp.check_vocabulary(fp.fingerprint(student), "student")
    padded = write_model(tmp_path / "padded", vocab_size=128)
    with refuses("student", "vocab_size 128", "tokenizer's 99 tokens"):
        fp.check_vocabulary(fp.fingerprint(padded), "student")


@pytest.mark.parametrize(("prompt", "response", "fits"), [(31, 32, True), (32, 32, False)])
def test_context_keeps_one_token_of_headroom(student, prompt, response, fits):
    model = fp.fingerprint(student)
    if fits:
        fp.check_context(model, prompt, response, "student")
        return
    with refuses("context of 64 tokens", "65"):
        fp.check_context(model, prompt, response, "student")


def test_sharded_weights(student):
    (student / "model.safetensors").rename(student / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    write_json(student / "model.safetensors.index.json", index)
    with refuses("model-2.safetensors", "1 of 2"):
        fp.fingerprint(student)
    shutil.copy(student / "model-1.safetensors", student / "model-2.safetensors")
    assert fp.fingerprint(student).parameters == parameters(99)  # the same tensors, by name


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_broken_json_is_refused(student, name):
    (student / name).write_text("{")
    with refuses(name, "JSON"):
        fp.fingerprint(student)


def test_cut_off_weights_are_refused(student):
    weights = student / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with refuses("model.safetensors", "cut off"):
        fp.fingerprint(student)
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with refuses("model.safetensors", "cut off", "Git LFS"):
        fp.fingerprint(student)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json; not a model in Hugging Face format"),
        ("model.safetensors", "no weights"),
    ],
)
def test_incomplete_folders_are_refused(student, missing, message):
    (student / missing).unlink()
    with pytest.raises(ConfigError, match=message):
        fp.fingerprint(student)


def test_a_folder_without_tokenizer_is_refused(student):
    (student / "tokenizer.json").unlink()
    (student / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="no tokenizer"):
        fp.fingerprint(student)


def test_names_that_are_no_model(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="no such model folder"):
        fp.fingerprint(tmp_path / "none")
    for name in ("org/absent", "not a name at all!", "a/b/c"):
        with refuses(name, "model folder", "Hugging Face"):
            fp.fingerprint(name)


def test_hub_names_are_read_from_the_local_cache(student, tmp_path, monkeypatch):
    import huggingface_hub

    def snapshot(name, local_files_only, **_):
        assert (name, local_files_only) == ("org/model", True)
        return str(student)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert fp.fingerprint("org/model") == fp.fingerprint(student)


def test_the_demo_student_fits_its_tokenizer():
    folder = STUDENT
    found = fp.fingerprint(folder)
    fp.check_vocabulary(found, "student")
    assert found.chat_template_sha256 is not None and found.eos_token_ids
