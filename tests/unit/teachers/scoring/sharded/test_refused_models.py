"""What the sharded scorer refuses, and what its canary notices, on one rank."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from teachers.scoring.canary import canary_logp, tokens_for
from teachers.scoring.sharded import module
from teachers.scoring.sharded.scorer import ShardedScorer
from tests.helpers.gloo_ranks import one_rank
from tests.helpers.messages import refuses
from tests.helpers.model_copies import changed_copy, noisy_copy, reconfigured_copy, weights_of
from tests.helpers.other_models import qwen3_copy
from tests.helpers.paths import STUDENT
from tests.helpers.scored import SEQUENCES

torch = pytest.importorskip("torch")

LAYER = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module", autouse=True)
def ranks():
    with one_rank():
        yield


def sharded(canary: bool = True, dtype: str = "float32", **models: Path) -> ShardedScorer:
    folders = {"reference": str(STUDENT), **{name: str(path) for name, path in models.items()}}
    return ShardedScorer(folders, "cpu", dtype, 4096, canary)


def write_weights(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **settings: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}), encoding="utf-8")
    return folder


def without_a_tensor(folder: Path) -> Path:
    copy = noisy_copy(folder, seed=1)
    return write_weights(copy, {name: value for name, value in weights_of(copy).items() if name != LAYER})


def of_another_shape(folder: Path) -> Path:
    return changed_copy(folder, lambda name, value: value[:, :-1] if name == LAYER else value)


def without_safetensors(folder: Path) -> Path:
    shutil.copytree(STUDENT, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def broken(folder: Path) -> Path:
    def break_one(name: str, value: np.ndarray) -> np.ndarray:
        return (
            np.where(np.arange(value.size).reshape(value.shape) == 7, np.nan, value)
            if name == LAYER
            else value
        )

    return changed_copy(folder, break_one)


def unread(folder: Path) -> Path:
    """A number that no canary reads: the row of its last token, which is none of the canary's."""
    from transformers import AutoConfig

    tokens = tokens_for(AutoConfig.from_pretrained(STUDENT))
    row = next(row for row in reversed(range(99)) if row not in tokens)

    def break_row(name: str, value: np.ndarray) -> np.ndarray:
        if "embed_tokens" in name:
            value = value.copy()
            value[row, 0] = np.inf
        return value

    return changed_copy(folder, break_row)


@pytest.mark.parametrize(
    "make, told",
    [
        (without_a_tensor, ["no tensor", LAYER, "1 of 39", "scorer.kind: shared or pool"]),
        (of_another_shape, [LAYER, "in its files", "by its config.json"]),
        (without_safetensors, ["no tensor", "39 of 39"]),
        (
            lambda folder: reconfigured_copy(folder, quantization_config={"quant_method": "fp8"}),
            ["quantized"],
        ),
        (lambda folder: qwen3_copy(folder, vocab_size=128), ["vocabulary of 128", "one of 99"]),
        (broken, ["not finite", LAYER]),
        (unread, ["not finite", "embed_tokens"]),
    ],
)
def test_models_that_cannot_be_read_are_refused_at_once(tmp_path, make, told):
    with refuses("model 'math'", str(tmp_path / "math"), *told, error=ValueError):
        sharded(math=make(tmp_path / "math"))


def test_a_model_that_changes_its_logits_is_refused(tmp_path):
    from transformers import AutoModelForCausalLM, CohereConfig

    config = CohereConfig(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                          num_attention_heads=2, logit_scale=0.5)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "math")
    with refuses("model 'math'", "logits", "scorer.kind: shared or pool", error=ValueError):
        sharded(math=tmp_path / "math")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_canary_notices_files_that_change(tmp_path, dtype):
    folder = noisy_copy(tmp_path / "math", seed=1)
    scorer = sharded(dtype=dtype, math=folder)
    for model in ("math", "reference", "math"):
        scorer.score(model, SEQUENCES[:1])
    write_weights(folder, {n: 1.5 * v if n == LAYER else v for n, v in weights_of(folder).items()})
    scorer.score("math", SEQUENCES[:1])  # it is there, and not read again
    scorer.close()
    for _ in range(2):
        with refuses("model 'math'", "not those that were loaded", "scorer.canary", error=ValueError):
            scorer.score("math", SEQUENCES[:1])
    assert scorer.current is None
    scorer.score("reference", SEQUENCES[:1])


@pytest.mark.parametrize("make", [broken, unread])
def test_numbers_that_are_not_finite_are_refused_without_the_canary_too(tmp_path, make):
    with refuses("model 'math'", "not finite", error=ValueError):
        sharded(canary=False, math=make(tmp_path / "math"))


def test_without_the_canary_nothing_is_noticed(tmp_path):
    folder = noisy_copy(tmp_path / "math", seed=1)
    scorer = sharded(canary=False, math=folder)
    assert scorer.swaps == 2 and scorer.current is None  # each was loaded once
    (before,) = scorer.score("math", SEQUENCES[:1])
    scorer.close()
    write_weights(folder, {n: 1.5 * v if n == LAYER else v for n, v in weights_of(folder).items()})
    (after,) = scorer.score("math", SEQUENCES[:1])
    assert (before - after).abs().max() > 1e-3


def test_what_is_not_read_from_the_files_is_not_a_number(tmp_path, monkeypatch):
    """The memory that a model is given may hold another one's weights."""
    scorer = sharded(canary=False, math=noisy_copy(tmp_path / "math", seed=1))
    scorer.score("reference", SEQUENCES[:1])
    monkeypatch.setattr(module, "load", lambda *arguments, **named: None)
    (row,) = scorer.score("math", SEQUENCES[:1])
    assert row.isnan().any()


def test_the_canary_reads_what_the_plain_model_reads(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = qwen3_copy(tmp_path / "math", dtype="float32")
    found = sharded(math=folder).canary.expected["math"]
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(found, canary_logp(plain), atol=1e-5, rtol=0)
