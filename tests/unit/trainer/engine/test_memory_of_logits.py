"""Bytes that a training pass keeps alive with a real vocabulary, counted, in bfloat16 (docs/memory.md).

A unit is one byte per response token and entry of the vocabulary, at the peak.
"""

from __future__ import annotations

import pytest

from tests.helpers.live_storage import LiveStorage
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

VOCABULARY = 151_936
POSITIONS_AT_ONCE = 16
FEW, MANY = 64, 192
LIMITS = {"old log-probabilities": 4, "old log-probabilities and entropy": 4, "update": 6, "topk": 8}
"""Units, as issue 11 sets them for the whole logits of a micro-batch."""


def peaks(engine_class: type, folder, packed: bool, tokens: int) -> dict[str, int]:
    """Peak of live storage in bytes, by pass, of one micro-batch with `tokens` response tokens."""
    engine = make_engine(engine_class, folder, packed=packed, number_format="bf16",
                         attention="packed_sdpa" if packed else "sdpa")  # fmt: skip

    def batch(**settings):
        lengths = ((1, tokens // 2), (1, tokens // 2))
        return rollout_batch(lengths, vocabulary=VOCABULARY, use_remove_padding=packed, **settings)

    def mean_of(name):
        return lambda values, mask: (values[name] * mask).mean()

    passes = {
        "old log-probabilities": lambda: old_pass(engine, batch()),
        "old log-probabilities and entropy": lambda: old_pass(engine, batch(calculate_entropy=True)),
        "update": lambda: update_pass(engine, batch(), mean_of("log_probs")),
        "topk": lambda: update_pass(engine, add_optimum(batch(), VOCABULARY, 8), mean_of("kl_to_optimum")),
    }
    few = rollout_batch(((1, 2),), vocabulary=VOCABULARY, use_remove_padding=packed)
    old_pass(engine, few)  # makes the buffers that FSDP2 keeps
    found = {}
    for name, run in passes.items():
        with LiveStorage() as storage:
            run()
        found[name] = storage.peak
    return found


def of_verl(folder):
    return peaks(whole_logits_engine(), folder, packed=False, tokens=FEW)


def of_ours(folder):
    """(peaks of few tokens, peaks of many)."""
    import trainer.engine.chunked_head as chunked_head
    from merging.exopd.engine import DistributionEngine

    chunked_head.LOGITS_AT_ONCE = POSITIONS_AT_ONCE * VOCABULARY
    return tuple(peaks(DistributionEngine, folder, packed=True, tokens=tokens) for tokens in (FEW, MANY))


def units(found: dict[str, int], tokens: int) -> dict[str, float]:
    return {name: peak / tokens / VOCABULARY for name, peak in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m"
    return write_causal_model(path, vocabulary=VOCABULARY, hidden=32, layers=1)


def test_the_peak_is_within_the_limits_and_does_not_grow_with_the_tokens(folder):
    (few, many) = on_ranks(of_ours, 1, folder)[0]
    print({name: round(value, 2) for name, value in units(many, MANY).items()})
    for name, limit in LIMITS.items():
        assert units(many, MANY)[name] <= limit, (name, units(many, MANY))
        assert many[name] <= 1.1 * few[name], (name, few, many)


def test_verls_own_path_exceeds_them(folder):
    """What the limits are there to tell apart."""
    found = units(on_ranks(of_verl, 1, folder)[0], FEW)
    print({name: round(value, 2) for name, value in found.items()})
    above = {name for name, limit in LIMITS.items() if found[name] > limit}
    assert above >= {"old log-probabilities and entropy", "update", "topk"}, found
