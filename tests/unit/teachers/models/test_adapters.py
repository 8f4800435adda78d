"""Adapters: what is refused, what identifies one, and the full model that one makes of the student."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from common.errors import ConfigError
from teachers.models import adapters, fingerprint, patterns
from teachers.registry.local import Registry
from teachers.registry.merged import merged_model
from tests.helpers.lora_adapters import LINEAR, write_adapter
from tests.helpers.messages import refuses
from tests.helpers.model_copies import noisy_copy, reconfigured_copy, weights_of
from tests.helpers.paths import STUDENT

NAME = "domains.math.expert"


@pytest.fixture(scope="module")
def student():
    return fingerprint.fingerprint(STUDENT)


def refusal(student, folder) -> str:
    with pytest.raises(ConfigError) as refused:
        adapters.check_adapter(student, adapters.fingerprint(folder), NAME)
    assert all(problem.startswith(f"{NAME} (") for problem in refused.value.problems)
    return str(refused.value)


def test_an_adapter_that_peft_saved_fits(student, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM", rank_pattern={"q_proj": 2}
    )
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(STUDENT), config)
    model.save_pretrained(tmp_path / "own")
    found = adapters.fingerprint(tmp_path / "own")
    adapters.check_adapter(student, found, NAME)
    assert found.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.path == str(tmp_path / "own")


def test_what_is_no_adapter_is_refused(tmp_path):
    with refuses("adapter_config.json", "full model", "kind: model"):
        adapters.fingerprint(STUDENT)
    (tmp_path / "empty").mkdir()
    with refuses("adapter_config.json", "no adapter"):
        adapters.fingerprint(tmp_path / "empty")
    folder = write_adapter(tmp_path / "adapter")
    with refuses("adapter", "kind: adapter"):
        fingerprint.fingerprint(folder)
    (folder / "adapter_model.safetensors").unlink()
    with refuses("weights", "adapter_model.safetensors"):
        adapters.fingerprint(folder)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'; valid is plain LoRA"),
        ({"use_dora": True}, r"use_dora \(DoRA\) is not supported; valid is plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save \(modules trained in full\)"),
        ({"bias": "lora_only"}, "bias 'lora_only' is not supported.*valid is 'none'"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'.*valid is CAUSAL_LM"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the student's own weights"),
        ({"lora_alpha": None}, "lora_alpha is None; valid is a number"),
        ({"lora_alpha": 0}, "lora_alpha is 0; valid is a number"),
        ({"r": 0}, "r is 0; valid is a whole number"),
        ({"r": 8}, r"lora_A and lora_B of layer 'model.layers.0.mlp.down_proj' have the shapes \[4, "),
        ({"rank_pattern": {"layers.1.*q_proj": 2}}, "layer 'model.layers.1.self_attn.q_proj' have the"),
        ({"target_modules": ["q_proj", "kv_proj"]}, "target_modules names 'kv_proj'"),
        ({"fan_in_fan_out": True}, "have the shapes"),
    ],
)
def test_what_is_not_supported_is_refused(student, tmp_path, settings, expected):
    assert re.search(expected, refusal(student, write_adapter(tmp_path / "adapter", **settings)))


def rename_tensors(folder: Path, old: str, new: str) -> Path:
    from safetensors.numpy import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): value for name, value in load_file(file).items()}, file)
    return folder


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("layers.0", "layers.77", "the student has no layer 'model.layers.77.mlp.down_proj'"),
        ("model.layers.0.mlp.down_proj", "lm_head", "an adapter on 'lm_head' is not supported"),
        ("model.layers.0.mlp.down_proj", "model.embed_tokens", "'model.embed_tokens' is not supported"),
        ("lora_A.weight", "lora_embedding_A", "tensors are no LoRA on a linear layer"),
        ("layers.0.mlp.down_proj.lora_B", "layers.1.mlp.down_proj.lora_B", "none"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(student, tmp_path, old, new, expected):
    folder = rename_tensors(write_adapter(tmp_path / "adapter"), old, new)
    assert expected in refusal(student, folder)


def test_an_adapter_that_lacks_a_layer_is_refused(student, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = write_adapter(tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    save_file({n: v for n, v in load_file(file).items() if "layers.3.mlp" not in n}, file)
    said = refusal(student, folder)
    assert "lacks 6 tensors" in said and "model.layers.3.mlp.down_proj.lora_A.weight" in said


def test_layers_that_the_settings_leave_out_may_not_be_in_the_file(student, tmp_path):
    folder = write_adapter(tmp_path / "adapter", layers_to_transform=[0, 1, 2])
    assert "holds 14 tensors" in refusal(student, folder)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"r": "4"}, "`r`"),
        ({"lora_alpha": "8"}, "`lora_alpha`"),
        ({"rank_pattern": {"x": None}}, "`rank_pattern.x`"),
    ],
)
def test_settings_of_other_types_are_refused(tmp_path, settings, place):
    with pytest.raises(ConfigError, match=re.escape(place)):
        adapters.fingerprint(write_adapter(tmp_path / "adapter", **settings))


def test_a_config_beside_an_adapter_makes_no_full_model_of_it(tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    shutil.copy(STUDENT / "config.json", folder / "config.json")
    assert adapters.is_adapter(folder)
    assert adapters.weights_sha256(folder) == adapters.fingerprint(folder).weights_sha256


def test_an_adapter_of_a_model_of_other_size_is_refused(tmp_path):
    thin = fingerprint.fingerprint(
        reconfigured_copy(tmp_path / "thin")  # its tensors are cut below
    )
    from safetensors.numpy import save_file

    cut = {name: value[..., :32].copy() for name, value in weights_of(STUDENT).items()}
    save_file(cut, tmp_path / "thin" / "model.safetensors")
    assert "have the shapes" in refusal(thin, write_adapter(tmp_path / "adapter"))


def test_a_tokenizer_or_template_that_came_along_must_be_the_students(student, tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STUDENT / name, folder)
    adapters.check_adapter(student, adapters.fingerprint(folder), NAME)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    text = (folder / "tokenizer.json").read_text()
    content = json.loads(text)
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 99, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused = refusal(student, folder)
    assert "another tokenizer" in refused and "another chat template" in refused


def test_identity_is_weights_and_settings_and_nothing_else(tmp_path):
    digests = [
        adapters.fingerprint(write_adapter(tmp_path / f"{number}", seed, **settings)).weights_sha256
        for number, (seed, settings) in enumerate(
            [(0, {}), (0, {"base_model_name_or_path": "elsewhere", "lora_dropout": 0.5}), (1, {}),
             (0, {"alpha": 9}), (0, {"use_rslora": True}),
             (0, {"target_modules": [*reversed(LINEAR)], "loftq_config": {}, "use_dora": False})]
        )
    ]  # fmt: skip
    assert digests[0] == digests[1] == digests[5]
    assert len(set(digests)) == 4


def test_the_full_model_is_student_plus_adapter_with_the_students_files(student, tmp_path):
    registry = Registry(tmp_path / "home")
    adapter = write_adapter(tmp_path / "adapter", seed=3, targets=("q_proj", "down_proj"))
    folder = merged_model(STUDENT, adapter, registry)
    merged = fingerprint.fingerprint(folder)
    fingerprint.check_compatible(student, merged, NAME)
    assert (merged.shapes_sha256, merged.architecture) == (student.shapes_sha256, student.architecture)
    from safetensors.numpy import load_file

    own = load_file(adapter / "adapter_model.safetensors")
    for name, value in weights_of(folder).items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        expected = weights_of(STUDENT)[name]
        if key.format("A") in own:
            expected = expected + 2.0 * own[key.format("B")] @ own[key.format("A")]
        assert abs(value - expected).max() < 1e-6


def test_the_full_model_is_made_once_for_one_content(tmp_path):
    registry = Registry(tmp_path / "home")
    adapter = write_adapter(tmp_path / "adapter", seed=3)
    folder = merged_model(STUDENT, adapter, registry)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    moved = shutil.copytree(adapter, tmp_path / "moved")
    assert merged_model(STUDENT, moved, registry) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    others = {
        merged_model(STUDENT, write_adapter(tmp_path / "b", seed=4), registry),
        merged_model(noisy_copy(tmp_path / "noisy", seed=1), adapter, registry),
    }
    assert folder not in others and len(others) == 2
    assert sorted(path.name for path in (tmp_path / "home" / "merged").iterdir()) == sorted(
        path.name for path in (folder, *others)
    )


def test_a_merge_that_fails_leaves_nothing_behind(tmp_path):
    adapter = rename_tensors(write_adapter(tmp_path / "adapter"), "layers.0.", "layers.77.")
    with refuses("tensors", "adapter_config.json", error=ValueError):
        merged_model(STUDENT, adapter, Registry(tmp_path / "home"))
    assert list((tmp_path / "home").glob("merged/*")) == []


ENDLESS = r"(([a-z_0-9]|\.)+)+X"


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
@pytest.mark.parametrize(
    "pattern, told, limit", [(ENDLESS, "within 0.5 s", 0.5), ("(", "no regular expression", 30.0)]
)
def test_patterns_that_cannot_be_matched_are_refused(
    student, tmp_path, monkeypatch, key, pattern, told, limit
):
    monkeypatch.setattr(patterns, "LIMIT_SECONDS", limit)
    value = {pattern: 2} if key in ("rank_pattern", "alpha_pattern") else pattern
    folder = write_adapter(tmp_path / "adapter", **{key: value})
    assert f"{key}: the pattern {pattern!r}" in (said := refusal(student, folder)) and told in said
