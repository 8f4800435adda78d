"""Seconds by arithmetic, against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from merging.planning.devices import Device
from merging.planning.seconds import (
    Engines,
    Lengths,
    Step,
    decode_seconds,
    forward_flops,
    step_seconds,
    update_flops,
    weights_seconds,
)
from trainer.memory import ModelSize

SMALL = ModelSize(
    parameters=5200, layers=3, hidden=10, intermediate=30, queries=20, keys=5, vocabulary=100, tied=True
)
"""1,400 numbers a layer and 1,000 in the head: a token is multiplied with 5,200."""

TOY = Device(
    "toy", flops=2e6, bandwidth=1e6, memory=0, compute_share=0.5, bandwidth_share=0.5, token_seconds=0.01,
    step_seconds=3.0,
)  # fmt: skip
"""1e6 FLOP/s and 0.5e6 bytes/s are reached; numbers of two bytes."""

LENGTHS = Lengths(prompt=10, answer=20, limit=1000)
FORWARD = 936_000
"""Of two sequences: 2 * 5,200 * 60 tokens, and 4 * 3 layers * 20 * 2 * (10^2 + 2*10*20 + 2*20^2) / 2."""


def test_a_forward_pass():
    assert FORWARD == 2 * 5200 * 60 + 4 * 3 * 20 * 2 * (100 + 400 + 800) / 2
    assert forward_flops(SMALL, 2, LENGTHS) == FORWARD


@pytest.mark.parametrize(
    "recomputes, is_adapter, passes", [(True, False, 4), (False, False, 3), (True, True, 3), (False, True, 2)]
)
def test_an_update(recomputes, is_adapter, passes):
    assert update_flops(SMALL, 2, LENGTHS, recomputes, is_adapter) == passes * FORWARD


def test_the_longest_answer():
    lengths = Lengths(0, 100, 700)
    assert lengths.longest_of(1) == 100  # not below the mean
    assert lengths.longest_of(100) == pytest.approx(100 * (4.60517 + 0.57722), rel=1e-5)
    assert lengths.longest_of(1000) == 700  # 748 without the limit
    assert (lengths.squared_answer, Lengths(0, 100, 150).squared_answer) == (20_000, 15_000)


class TestDecoding:
    """Four answers of 10 tokens, the limit too, on two engines: each makes 10 steps for two of them."""

    LENGTHS = Lengths(prompt=0, answer=10, limit=10)
    ENGINES = Engines(TOY, count=2, tensor_parallel=1, sequences=8)
    CACHED = 2 * 50 * 30 * 2
    """Bytes of keys and values: two answers, 10^2 / 2 tokens each, 2 * 3 layers * 5 keys, two bytes."""

    def seconds(self, **changes):
        return decode_seconds(SMALL, 4, self.LENGTHS, replace(self.ENGINES, **changes))

    def test_by_hand(self):
        read = 10 * 2 * 5200 + self.CACHED
        assert self.seconds() == pytest.approx(read / 0.5e6 + 10 * 0.01)

    def test_no_answers_take_no_time(self):
        assert decode_seconds(SMALL, 0, self.LENGTHS, self.ENGINES) == 0

    @pytest.mark.parametrize("limit", [{"sequences": 1}, {"cache_bytes": 300.0}, {"cache_bytes": 1.0}])
    def test_what_does_not_fit_waits(self, limit):
        """One at a time makes 20 steps; 300 bytes hold the 5 tokens of one answer that is half written."""
        read = 20 * 2 * 5200 + self.CACHED
        assert self.seconds(**limit) == pytest.approx(read / 0.5e6 + 20 * 0.01)

    def test_devices_that_share_an_engine(self):
        """One engine writes all four; it reads the weights once for them, at twice the bandwidth, and
        computes at twice the speed, which takes longer here."""
        read, computed = 10 * 2 * 5200 + 2 * self.CACHED, 4 * 10 * 2 * 5200
        assert read / 1e6 < computed / 2e6
        assert self.seconds(count=1, tensor_parallel=2) == pytest.approx(computed / 2e6 + 10 * 0.01)
        fast = replace(TOY, flops=1e9)
        assert self.seconds(device=fast, count=1, tensor_parallel=2) == pytest.approx(read / 1e6 + 10 * 0.01)

    def test_quantized_layers_are_half_as_large(self):
        read = 10 * (4200 + 2 * 1000) + self.CACHED
        computed = 2 * 10 * 2 * 5200 / 1e6  # takes longer than the 66,000 bytes
        assert read / 0.5e6 < computed
        assert self.seconds(is_quantized=True) == pytest.approx(computed + 10 * 0.01)

    def test_prompts_are_read_first(self):
        lengths = replace(self.LENGTHS, prompt=4.0)
        prompts = 2 * (2 * 5200 * 4 + 4 * 3 * 20 * 16 / 2) / 1e6
        more = 2 * 4 * 10 * 30 * 2 / 0.5e6  # the prompts' keys and values, in each step
        assert decode_seconds(SMALL, 4, lengths, self.ENGINES) == pytest.approx(
            self.seconds() + prompts + more
        )


STEP = Step(SMALL, rollouts=2, lengths=LENGTHS, devices=2, engines=None)


def test_a_step_without_rollout():
    assert step_seconds(STEP, TOY) == pytest.approx(
        {"log-probabilities": FORWARD / 2e6, "update": 4 * FORWARD / 2e6, "other": 3.0}
    )


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"reads_again": False}, {"log-probabilities": None}),
        ({"is_adapter": True}, {"update": 3 * FORWARD / 2e6}),
        ({"checkpoint_bytes": 2e9}, {"checkpoints": 2.0}),
        ({"devices": 1}, {"log-probabilities": FORWARD / 1e6, "update": 4 * FORWARD / 1e6}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_each_part_of_a_step(changes, expected):
    before, after = step_seconds(STEP, TOY), step_seconds(replace(STEP, **changes), TOY)
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name: after.get(name) for name in differing} == pytest.approx(expected)


def test_scoring_is_shared_or_as_slow_as_the_slowest_server():
    """The first model reads every rollout, the second one of the two."""
    one, half = FORWARD, 2 * 5200 * 30 + 4 * 3 * 20 * 1300 / 2
    scored = replace(STEP, scored=((SMALL, 1.0), (SMALL, 0.5)), scoring_devices=1)
    assert half == one / 2
    assert step_seconds(scored, TOY)["scoring"] == pytest.approx((one + half) / 1e6)
    replicas = replace(scored, scoring_devices=2)
    assert step_seconds(replicas, TOY)["scoring"] == pytest.approx((one + half) / 2e6)
    servers = replace(scored, has_servers=True)
    assert step_seconds(servers, TOY)["scoring"] == pytest.approx(one / 1e6)


def test_weights_go_to_the_rollout():
    engines = Engines(TOY, count=2, tensor_parallel=1, sequences=8)
    parts = step_seconds(replace(STEP, engines=engines), TOY)
    assert parts["weights to the rollout"] == 4 * 5200 / 5e9
    assert parts["rollout"] == decode_seconds(SMALL, 2, LENGTHS, engines)


def test_a_baseline_of_weights():
    """Base and two experts are read, one model is written, 2e9 bytes each; 1e9 numbers of two experts."""
    assert weights_seconds(10**9, 2) == pytest.approx(8.0 + 20.0)
