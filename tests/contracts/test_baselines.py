"""What every entry of merging.baselines.weights.METHODS must do."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from configs.blocks.baselines import BaselineName, TrainedBaseline, WeightBaseline
from configs.reading.explain import kind_of
from merging.baselines.weights import METHODS
from merging.state.baseline_record import options

torch = pytest.importorskip("torch")

CONFIGS = {kind_of(model): model for model in get_args(WeightBaseline)}
"""The block of each kind."""

CHANGES = {
    "task_arithmetic": {"scale": 0.5},
    "ties": {"density": 0.5, "scale": 0.5},
    "dare": {"drop_rate": 0.5, "scale": 0.5, "seed": 1},
    "extrapolation": {"factor": 1.5},
}
"""Another value for every option of a kind."""


def models(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (30, 5), "b": (20,)}
    base, *experts = (
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        for _ in range(4)
    )
    return base, experts


def merged(kind, base, experts, **changed):
    return METHODS[kind](base, experts, **options(CONFIGS[kind](kind=kind, **changed)))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_kind_has_its_method_and_its_name():
    assert METHODS.keys() == CONFIGS.keys()
    trained = [kind_of(model) for model in get_args(TrainedBaseline)]
    assert get_args(BaselineName) == (*trained, *CONFIGS, "oracle", "teacher_more")


@pytest.mark.parametrize("kind", METHODS)
class TestBaseline:
    def test_the_blocks_options_are_the_methods(self, kind):
        _, _, *parameters = inspect.signature(METHODS[kind]).parameters
        assert parameters == list(options(CONFIGS[kind](kind=kind)))

    def test_every_option_changes_the_result(self, kind):
        base, experts = models()
        plain = merged(kind, base, experts)
        assert CHANGES.get(kind, {}).keys() == options(CONFIGS[kind](kind=kind)).keys()
        for name, value in CHANGES.get(kind, {}).items():
            assert not equal(merged(kind, base, experts, **{name: value}), plain), name

    def test_experts_that_are_the_base_change_nothing(self, kind):
        base, _ = models()
        assert equal(merged(kind, base, [base, base]), base)

    def test_names_and_shapes_in_float32_and_the_same_each_time(self, kind):
        base, experts = models(dtype=torch.bfloat16)
        found = merged(kind, base, experts)
        assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in base.items()}
        assert {value.dtype for value in found.values()} == {torch.float32}
        assert equal(found, merged(kind, base, experts))

    def test_the_given_weights_are_left_as_they_are(self, kind):
        (base, experts), (base_before, experts_before) = models(), models()
        merged(kind, base, experts)
        assert equal(base, base_before)
        assert all(equal(*pair) for pair in zip(experts, experts_before, strict=True))

    def test_every_expert_counts(self, kind):
        base, experts = models()
        other = models(seed=9)[1][0]
        plain = merged(kind, base, experts)
        for place in range(len(experts)):
            changed = [other if i == place else expert for i, expert in enumerate(experts)]
            assert not equal(merged(kind, base, changed), plain)
