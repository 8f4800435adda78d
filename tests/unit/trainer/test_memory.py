"""The arithmetic of device memory by hand, and its constants counted on a CPU."""

from __future__ import annotations

from functools import partial

import pytest

from tests.helpers.live_storage import LiveStorage
from tests.helpers.paper_plan import QWEN3_4B
from tests.helpers.ranks import on_ranks
from trainer.memory import (
    HEAD_WEIGHT_BYTES,
    LOGIT_BYTES,
    LOGITS_AT_ONCE,
    SCORED_LOGITS_AT_ONCE,
    ModelSize,
    kept_bytes_per_token,
    peak_phase,
    reading_bytes_per_token,
    rollout_bytes,
    scorer_parts,
    training_phases,
    update_parts,
    working_bytes_per_token,
)

torch = pytest.importorskip("torch")

SMALL = ModelSize(
    parameters=10_000, layers=3, hidden=10, intermediate=30, queries=20, keys=5, vocabulary=100, tied=True
)


def test_matrices_are_counted_from_the_widths():
    """10 * (2*20 + 2*5 + 3*30) = 1,400 a layer, 1,000 in the head."""
    assert (SMALL.layer, SMALL.head, SMALL.matrices) == (1400, 1000, 5200)
    assert ModelSize.of(QWEN3_4B).parameters == 36 * 100_925_440 + 151_936 * 2560 == 4_022_272_000
    assert ModelSize.of(QWEN3_4B | {"tie_word_embeddings": False}).parameters == 4_411_228_160
    assert ModelSize.of(QWEN3_4B, parameters=4_022_468_096).parameters == 4_022_468_096  # norms included
    assert SMALL.read == 3 * 1400 + 1000
    without = {
        key: value for key, value in QWEN3_4B.items() if key not in ("head_dim", "num_key_value_heads")
    }
    assert (ModelSize.of(without).queries, ModelSize.of(without).keys) == (2560, 2560)


def test_a_mixture_of_experts_is_not_modelled():
    with pytest.raises(ValueError, match="qwen3: the memory of a mixture of experts is not modelled"):
        ModelSize.of(QWEN3_4B | {"num_experts": 8})


@pytest.mark.parametrize(
    "widths, parameters, reason",
    [
        ({"intermediate_size": None}, None, "qwen3: config.json has no intermediate_size"),
        (
            {},
            8_000_000_000,
            "files hold 8,000,000,000 parameters.* widths 4,022,272,000",
        ),
    ],
)
def test_other_architectures_are_not_modelled(widths, parameters, reason):
    with pytest.raises(ValueError, match=reason):
        ModelSize.of(QWEN3_4B | widths, parameters)


def test_a_text_models_widths_may_lie_below():
    assert ModelSize.of({"model_type": "both", "text_config": QWEN3_4B}) == ModelSize.of(QWEN3_4B)


def test_constants_are_those_of_trainer_scorer_and_verl():
    from teachers.scoring import scorer
    from trainer.engine import chunked_head
    from trainer.settings.defaults import PPO, default_values

    assert chunked_head.LOGITS_AT_ONCE == LOGITS_AT_ONCE
    assert scorer.LOGITS_PER_CHUNK == SCORED_LOGITS_AT_ONCE
    deferred = "actor_rollout_ref.actor.fsdp_config.use_no_sync_for_gradient_accumulation"
    assert default_values(PPO)[deferred] is False


def test_the_parts_of_an_update():
    found = update_parts(SMALL, devices=4, tokens=7, logits_at_once=50)
    assert found == {
        "weights": 10_000,  # 4 * 10,000 / 4
        "optimizer": 20_000,
        "gradients": 10_000 + 4 * 2 * 1400,  # its own part, and two layers on their way
        "gathered weights": 2 * (1000 + 2 * 1400),
        "activations": 7 * (3 * 20 + (200 + 240 + 50 + 300)),
        "logits": 12 * 50 + 6 * 1000,
    }


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"defers_gradient_sync": True}, {"gradients": 10_000 + 40_000}),
        ({"gradient_checkpointing": False}, {"activations": 7 * 3 * (160 + 240 + 50 + 240)}),
        ({"devices": 1}, {"weights": 40_000, "optimizer": 80_000, "gradients": 40_000 + 11_200}),
        ({"tokens": 0}, {"activations": 0}),
        ({"trained": 80}, {"optimizer": 160, "gradients": 80 + 320, "logits": 600}),
        ({"logits_at_once": 0}, {"logits": 6000}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_each_setting_changes_its_parts(settings, expected):
    usual = {"devices": 4, "tokens": 7, "logits_at_once": 50}
    before, after = update_parts(SMALL, **usual), update_parts(SMALL, **{**usual, **settings})
    assert {name: value for name, value in after.items() if value != before[name]} == expected


def test_the_scorer_holds_each_architecture_once():
    other = ModelSize(**{**vars(SMALL), "hidden": 20})
    assert scorer_parts([SMALL, SMALL], tokens=5, logits_at_once=9) == {
        "scorer": 20_000,
        "scoring": 5 * (80 + 40 + 180) + 12 * 9,
    }
    assert scorer_parts([SMALL, other], tokens=5, logits_at_once=9, hidden_bytes=1000) == {
        "scorer": 40_000,
        "scoring": 5 * (160 + 40 + 180) + 2 * 12 * 9 + 1000,
    }


def test_phases_share_what_stays():
    update = {"weights": 1, "optimizer": 2, "gradients": 3}
    phases = training_phases(
        update, {"scorer": 4, "scoring": 5}, device_bytes=1000, rollout_memory_fraction=0.5
    )
    assert phases == {
        "rollout": {"weights": 1, "optimizer": 2, "rollout and its cache": 500, "scorer": 4, "scoring": 5,
                    "processes": 3 * 10**9},
        "update": {"weights": 1, "optimizer": 2, "gradients": 3, "rollout asleep": 2 * 10**9,
                   "processes": 3 * 10**9},
    }  # fmt: skip
    assert peak_phase(phases) == "update"
    pool = training_phases(update, {}, device_bytes=1000, rollout_memory_fraction=0.5)
    assert "scorer" not in pool["update"] and pool["rollout"]["processes"] == 2 * 10**9


@pytest.mark.parametrize(
    "offload, gone", [("none", set()), ("optimizer", {"optimizer"}), ("all", {"weights", "optimizer"})]
)
def test_what_is_offloaded_is_not_there_in_the_rollout(offload, gone):
    update = {"weights": 1, "optimizer": 2, "gradients": 3}
    phases = training_phases(update, {}, device_bytes=10, rollout_memory_fraction=0.5, offload=offload)
    assert {"weights", "optimizer"} - phases["rollout"].keys() == gone
    assert update.items() <= phases["update"].items()


def test_the_least_share_of_a_rollout_engine():
    """10,000 weights, and 7 tokens of 2 * 3 layers * 5 keys, in two bytes; fp8 halves the 4,200 of layers."""
    assert rollout_bytes(SMALL, tensor_parallel=1, longest=7) == 20_000 + 420 + 2 * 10**9
    assert rollout_bytes(SMALL, tensor_parallel=2, longest=7) == 10_210 + 2 * 10**9
    assert rollout_bytes(SMALL, tensor_parallel=1, longest=7, quantized=True) == 15_800 + 420 + 2 * 10**9


# ------------------------------------------------------------------------------------ counted on a CPU

WIDTHS = {"hidden_size": 320, "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 1216}
"""Those of Qwen3-4B, divided by 8; a head has 128 channels there too."""


def peak(tokens: int, layers: int, checkpointing: bool, gradients: bool) -> int:
    """Live storage at the peak of a pass over two packed sequences, in bytes."""
    from transformers import AutoModel, Qwen3Config

    from trainer.engine.attention import PACKED, register_packed

    register_packed()
    config = Qwen3Config(**WIDTHS, vocab_size=16, head_dim=128, num_hidden_layers=layers)
    model = AutoModel.from_config(config, attn_implementation=PACKED).bfloat16().train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    positions = torch.arange(tokens // 2).repeat(2)[None]
    with LiveStorage() as storage:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradients):
            hidden = model(input_ids=torch.zeros_like(positions), position_ids=positions, use_cache=False)[0]
        if gradients:
            hidden.sum().backward()
    return storage.peak


def per_token(layers: int, checkpointing: bool = True, gradients: bool = True) -> float:
    """Bytes by which the peak grows with each token."""
    at = partial(peak, layers=layers, checkpointing=checkpointing, gradients=gradients)
    return (at(320) - at(128)) / 192


@pytest.fixture(scope="module")
def counted_model():
    return ModelSize.of(WIDTHS | {"num_hidden_layers": 1, "head_dim": 128, "vocab_size": 16})


def test_bytes_per_token_with_gradient_checkpointing(counted_model):
    one, three = per_token(1), per_token(3)
    kept = (three - one) / 2
    assert kept == pytest.approx(kept_bytes_per_token(counted_model, True), rel=0.01)
    assert one - kept == pytest.approx(working_bytes_per_token(counted_model), rel=0.03)


def test_bytes_per_token_without_it(counted_model):
    kept = (per_token(3, checkpointing=False) - per_token(1, checkpointing=False)) / 2
    assert kept == pytest.approx(kept_bytes_per_token(counted_model, False), rel=0.03)


def test_bytes_per_token_of_reading(counted_model):
    found = per_token(2, gradients=False)
    assert 0.8 * reading_bytes_per_token(counted_model) <= found <= reading_bytes_per_token(counted_model)


def test_bytes_per_logit_and_per_number_of_the_head(monkeypatch):
    from trainer.engine import chunked_head
    from trainer.engine.chunked_head import Question, in_chunks, token_logp

    vocabulary = 20_000

    def head_peak(positions: int, hidden: int) -> int:
        monkeypatch.setattr(chunked_head, "LOGITS_AT_ONCE", positions * vocabulary)
        shape = {"dtype": torch.bfloat16, "requires_grad": True}
        states, weight = torch.randn(3 * positions, hidden, **shape), torch.randn(vocabulary, hidden, **shape)
        rows = {"next_ids": torch.zeros(3 * positions, dtype=torch.long)}
        question = Question(torch.arange(3 * positions), rows, {"log_probs": token_logp})
        with LiveStorage() as storage:
            in_chunks(states, weight, None, question).sum().backward()
        return storage.peak

    per_logit = (head_peak(64, 16) - head_peak(32, 16)) / 32 / vocabulary
    assert per_logit == pytest.approx(LOGIT_BYTES, rel=0.01)
    wide = head_peak(4, 512)  # the head outweighs the logits, as it does at 2,560
    assert wide <= (LOGIT_BYTES * 4 + HEAD_WEIGHT_BYTES * 512) * vocabulary * 1.01


# --------------------------------------------------------------------------- counted on two ranks


def peak_of_a_micro_batch(defers: bool) -> tuple[int, dict]:
    """Live storage at the peak of a short micro-batch of a sharded model that computes in bfloat16, as verl
    shards it, and the widths of that model."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers import AutoModelForCausalLM, Qwen3Config

    own = {"vocab_size": 2048, "head_dim": 128, "num_hidden_layers": 6, "tie_word_embeddings": True}
    config = Qwen3Config(**WIDTHS, **own)
    model = AutoModelForCausalLM.from_config(config).float()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=init_device_mesh("cpu", (2,)), mp_policy=policy)

    def micro_batch() -> None:
        ids = torch.zeros(1, 4, dtype=torch.long)
        model(input_ids=ids, use_cache=False).logits.sum().backward()

    micro_batch()  # makes the buffers that FSDP2 keeps
    model.zero_grad()
    model.set_requires_gradient_sync(not defers)
    with LiveStorage() as storage:
        micro_batch()
    return storage.peak, config.to_dict()


@pytest.mark.parametrize("defers", [False, True])
def test_gradients_of_a_micro_batch(defers):
    """Its own half and a few layers' while they are exchanged at once, all of them where that is deferred."""
    (peak, widths), _ = on_ranks(peak_of_a_micro_batch, 2, defers)
    size = ModelSize.of(widths)
    parts = update_parts(size, devices=2, tokens=4, logits_at_once=0, defers_gradient_sync=defers)
    whole = 4 * size.parameters
    assert peak <= parts["gradients"] + parts["gathered weights"] + parts["activations"]
    assert peak > whole if defers else whole / 2 < peak < 0.8 * whole
