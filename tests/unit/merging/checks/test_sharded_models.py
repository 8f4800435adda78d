"""Models that the sharded scorer cannot read are refused before anything starts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from configs.load import load_config
from merging.checks import models
from merging.checks.machine import scored_parameters
from merging.checks.preflight import preflight
from tests.helpers.messages import problems_of, say_each
from tests.helpers.tiny_model import config_dict, write_config, write_model


@pytest.fixture
def run(tmp_path):
    """preflight of the tiny config with these overrides."""
    config = config_dict(tmp_path)
    return lambda *overrides: preflight(
        load_config(write_config(tmp_path, config), overrides), tmp_path / "run"
    )


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"quantization_config": {"bits": 4}}, "has quantized weights"),
        ({"num_local_experts": 8}, "is a mixture of experts"),
        (
            {"final_logit_softcapping": 30.0},
            "changes its logits after the output head (final_logit_softcapping)",
        ),
    ],
)
def test_models_of_other_kinds(run, tmp_path, settings, told):
    for name in ("student", "math_expert"):
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}), encoding="utf-8")
    problems = problems_of(lambda: run("scorer.kind=sharded"))
    say_each(
        problems,
        (f"student ({tmp_path}/student): {told}", "pool"),
        (f"domains.math.expert ({tmp_path}/math_expert): {told}",),
    )
    run("scorer.kind=pool")


def test_weights_in_other_files(run, tmp_path):
    weights = tmp_path / "math_expert" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "math_expert" / "pytorch_model.bin")
    weights.unlink()
    problems = problems_of(lambda: run("scorer.kind=sharded", "baselines=[]"))
    say_each(problems, ("domains.math.expert", "no safetensors files"))
    run("scorer.kind=shared", "baselines=[]")


@pytest.mark.parametrize("kind", ["shared", "sharded"])
def test_a_vocabulary_of_another_size(run, tmp_path, kind):
    """Rounded up for the hardware, which passes as a teacher otherwise."""
    for name, tokens in (("student", 6400), ("code_expert", 6400), ("math_expert", 6464)):
        extra = tuple(f"<{number}>" for number in range(6400 - 99))
        folder = tmp_path / name
        for file in folder.iterdir():
            file.unlink()
        write_model(folder, extra_tokens=extra, vocab_size=tokens)
    problems = problems_of(lambda: run(f"scorer.kind={kind}", "baselines=[]"))
    say_each(problems, ("domains.math.expert", "vocabulary of 6464", "student one of 6400"))


def test_it_holds_one_model_at_a_time(run):
    """Two experts and the reference, of 98 x 4 numbers each."""
    found = {kind: run(f"scorer.kind={kind}") for kind in ("shared", "sharded")}
    sizes = {kind: scored_parameters(each.config, each.fingerprints) for kind, each in found.items()}
    assert sizes["shared"] == 3 * sizes["sharded"] > 0
    assert found["shared"].memory_bytes - found["sharded"].memory_bytes == 4 * 2 * sizes["sharded"]


def test_the_settings_are_those_of_the_chunked_head():
    from trainer.engine.chunked_head import LOGIT_SETTINGS

    assert models.LOGIT_SETTINGS == LOGIT_SETTINGS
