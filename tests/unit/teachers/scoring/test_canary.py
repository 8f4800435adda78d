"""The canary: weights that are not those that were loaded end the run, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from teachers.scoring.canary import Canary, canary_logp, canary_tokens
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.messages import refuses
from tests.helpers.model_copies import changed_copy, noisy_copy, reconfigured_copy
from tests.helpers.paths import STUDENT

torch = pytest.importorskip("torch")

SEQUENCE = Scored(tuple(range(3, 33)), 20)
LAYER = "model.layers.1.mlp.down_proj.weight"
MESSAGE = r"model 'math': the weights in the scorer are not those that were loaded.* expected, \[.*\] came"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"reference": str(STUDENT), "math": str(noisy_copy(folder / "math", seed=5))}


def shared(folders, dtype="float32", **settings) -> SharedScorer:
    return SharedScorer(folders, "cpu", dtype, 4096, **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_swaps_back_and_forth_pass_and_are_no_passes(folders, dtype):
    scorer = shared(folders, dtype)
    for model in ("math", "reference", "math", "reference"):
        scorer.score(model, [SEQUENCE])
    scorer.targets(["math", "reference"], lambda teacher, _: teacher, [SEQUENCE])
    assert scorer.passes == {"math": 3, "reference": 3}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tampering", [lambda w: w.mul_(1.2), lambda w: w.fill_(float("nan"))])
def test_a_tampered_weight_is_noticed_at_every_try(folders, dtype, tampering):
    scorer = shared(folders, dtype)
    tampering(scorer.weights["math"][LAYER])
    scorer.score("reference", [SEQUENCE])
    for _ in range(2):
        with pytest.raises(ValueError, match=MESSAGE):
            scorer.score("math", [SEQUENCE])
    scorer.score("reference", [SEQUENCE])  # back to weights that are right
    assert scorer.passes == {"reference": 2}


def test_weights_of_another_model_are_noticed(folders):
    scorer = shared(folders)
    scorer.weights["math"] = scorer.weights["reference"]
    with pytest.raises(ValueError, match=MESSAGE):
        scorer.targets(["math", "reference"], lambda teacher, _: teacher, [SEQUENCE])


def test_a_swap_that_leaves_a_layer_behind_is_noticed(folders, monkeypatch):
    scorer = shared(folders)
    whole = scorer.module.load_state_dict
    part = {key: value for key, value in scorer.weights["math"].items() if key != LAYER}
    monkeypatch.setattr(scorer.module, "load_state_dict", lambda _, **options: whole(part, strict=False))
    with pytest.raises(ValueError, match=MESSAGE):
        scorer.score("math", [SEQUENCE])


def test_without_the_canary_nothing_is_noticed(folders):
    scorer = shared(folders, canary=False)
    scorer.weights["math"][LAYER].mul_(1.2)
    (row,) = scorer.score("math", [SEQUENCE])
    assert (row - shared(folders).score("math", [SEQUENCE])[0]).abs().max() > 1e-3


def test_weights_that_are_not_finite_are_refused_at_load(folders, tmp_path):
    def break_one(name, value):
        return (
            np.where(np.arange(value.size).reshape(value.shape) == 7, np.nan, value)
            if name == LAYER
            else value
        )

    broken = str(changed_copy(tmp_path / "broken", break_one))
    for canary in (True, False):
        with refuses("broken", LAYER, "not finite", error=ValueError):
            shared({**folders, "code": broken}, canary=canary)


def test_models_of_other_sizes_have_canaries_of_their_own(folders, tmp_path):
    small = reconfigured_copy(tmp_path / "small", num_hidden_layers=2, max_position_embeddings=9)
    scorer = shared({**folders, "code": str(small)})
    assert [len(logp) for logp in scorer.canary.expected.values()] == [15, 15, 8]
    for model in ("code", "math", "code", "reference"):
        scorer.score(model, [SEQUENCE])


def test_the_tokens_are_spread_over_the_vocabulary():
    assert canary_tokens(99, 160) == [3, 9, 15, 21, 27, 34, 40, 46, 52, 58, 64, 71, 77, 83, 89, 95]
    assert canary_tokens(8, 4) == [1, 3, 5, 7]
    for vocabulary in (2, 99, 151_936):
        tokens = canary_tokens(vocabulary, 4096)
        assert len(tokens) == 16 and set(tokens) <= set(range(vocabulary))
    assert max(canary_tokens(151_936, 4096)) > 145_000


def test_it_reads_what_the_plain_model_reads(folders):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders["math"]).eval()
    ids = torch.tensor(canary_tokens(99, 160))
    with torch.inference_mode():
        logp = model(ids[None]).logits[0].log_softmax(-1)
    expected = logp[torch.arange(15), ids[1:]]
    torch.testing.assert_close(canary_logp(model), expected, atol=1e-5, rtol=0)
    scorer = shared(folders)
    torch.testing.assert_close(scorer.canary.expected["math"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype, allowed", [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_the_tolerance_is_that_of_the_number_format(folders, dtype, allowed):
    module = shared(folders, dtype).module
    canary = Canary()
    canary.remember("math", "somewhere", module)
    moved = torch.zeros(15)
    moved[3] = allowed
    canary.expected["math"] = canary.expected["math"] + 0.9 * moved
    canary.check("math", module)
    canary.expected["math"] = canary.expected["math"] + 0.2 * moved
    with pytest.raises(ValueError, match=rf"above {allowed:g} \(scorer.canary\)"):
        canary.check("math", module)
