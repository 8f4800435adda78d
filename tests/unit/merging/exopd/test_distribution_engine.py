"""The divergence from the objective's optimum, chunked and packed, against whole padded logits."""

from __future__ import annotations

import pytest

from tests.helpers.ranks import on_ranks
from tests.helpers.training_engines import (
    add_optimum,
    make_engine,
    old_pass,
    rollout_batch,
    update_pass,
    write_causal_model,
)
from tests.helpers.whole_logits import whole_logits_engine

torch = pytest.importorskip("torch")

VOCABULARY = 151


def divergence(values, mask):
    weights = torch.linspace(0.5, 1.5, mask.numel()).view_as(mask) * mask
    return (values["kl_to_optimum"] * weights).sum()


def compared(folder, top_k, lora_rank):
    """Largest differences of values, loss and gradients, on this rank."""
    import trainer.engine.chunked_head as chunked_head
    from merging.exopd.engine import DistributionEngine

    chunked_head.LOGITS_AT_ONCE = 5 * VOCABULARY
    found, seen = [], []

    def loss(values, mask):
        seen.append(values["kl_to_optimum"].detach() * mask)
        return divergence(values, mask)

    for engine_class, packed, attention in (
        (whole_logits_engine(), False, "sdpa"),
        (DistributionEngine, True, "packed_sdpa"),
    ):
        engine = make_engine(engine_class, folder, packed=packed, attention=attention, lora_rank=lora_rank)
        rank = torch.distributed.get_rank()
        batch = rollout_batch(seed=rank, use_remove_padding=packed, max_token_len_per_gpu=32)
        found.append(update_pass(engine, add_optimum(batch, VOCABULARY, top_k), loss))
    (plain_loss, plain_gradients), (own_loss, gradients) = found
    half = len(seen) // 2
    return {
        "micro-batches": half,
        "values": max((a - b).abs().max().item() for a, b in zip(seen[:half], seen[half:], strict=True)),
        "loss": abs(own_loss - plain_loss),
        "gradient": max(
            ((gradients[name] - expected).abs().max() / expected.abs().max()).item()
            for name, expected in plain_gradients.items()
        ),
        "same names": gradients.keys() == plain_gradients.keys(),
        "of adapters": sum("lora_" in name for name in gradients) / len(gradients),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_causal_model(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize(
    "top_k, ranks, lora_rank", [(None, 1, 0), (7, 1, 0), (7, 2, 0), (None, 2, 4), (7, 1, 4), (7, 2, 4)]
)
def test_values_and_gradients_are_those_of_whole_logits(folder, top_k, ranks, lora_rank):
    for answer in on_ranks(compared, ranks, folder, top_k, lora_rank):
        assert answer["of adapters"] == bool(lora_rank), "the gradient is the adapter's alone"
        assert answer["micro-batches"] == 2 and answer["same names"]
        assert answer["values"] < 1e-5 and answer["loss"] < 1e-4 and answer["gradient"] < 1e-5, answer


def refusals(folder):
    """What the engine says of batches and models that it cannot compare."""
    from merging.exopd.engine import DistributionEngine

    said = []
    padded = make_engine(DistributionEngine, folder, packed=False, attention="sdpa")
    batch = add_optimum(rollout_batch(use_remove_padding=False), VOCABULARY, 7)
    try:
        update_pass(padded, batch, divergence)
    except ValueError as error:
        said.append(str(error))
    packed = make_engine(DistributionEngine, folder)
    said.append(sorted(old_pass(packed, add_optimum(rollout_batch(), VOCABULARY, 7))))
    said.append(sorted(old_pass(padded, batch)))
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"final_logit_softcapping": 30.0,', 1))
    try:
        make_engine(DistributionEngine, folder)
    except ValueError as error:
        said.append(str(error))
    return said


def test_what_it_cannot_compare_is_refused(tmp_path):
    folder = write_causal_model(tmp_path / "m")
    padded, old, padded_old, capped = on_ranks(refusals, 1, folder)[0]
    assert "need use_remove_padding: true and use_fused_kernels: false" in padded
    assert old == padded_old == ["log_probs"], "the divergence belongs to the update alone"
    assert "full and topk need the logits of a plain output head" in capped
