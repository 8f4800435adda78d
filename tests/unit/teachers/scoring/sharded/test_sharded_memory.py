"""The arithmetic of a device's memory while it scores, by hand."""

from __future__ import annotations

import pytest

from teachers.scoring.sharded.memory import sharded_scorer_parts
from trainer.memory import ModelSize

SMALL = ModelSize(
    parameters=10_000, layers=3, hidden=10, intermediate=30, queries=20, keys=5, vocabulary=100, tied=True
)
LARGE = ModelSize(**{**vars(SMALL), "parameters": 40_000, "vocabulary": 200, "tied": False})


def test_the_parts_of_the_largest_model():
    """A layer has 1,400 numbers; the head 1,000 (tied: gathered throughout) and 2,000."""
    usual = {"devices": 4, "tokens": 5, "logits_at_once": 9}
    small = {
        "scorer": 2 * 10_000 // 4,
        "scorer, gathered": 2 * (3 * 1400 + 1000),
        "scoring": 5 * (80 + 40 + 180) + 12 * 9,
    }
    assert sharded_scorer_parts([SMALL], **usual) == small
    large = {**small, "scorer": 20_000, "scorer, gathered": 2 * 3 * 2000}
    assert sharded_scorer_parts([SMALL, LARGE, SMALL], **usual) == large


@pytest.mark.parametrize(
    "changed, part, value",
    [
        ({"devices": 2}, "scorer", 10_000),
        ({"tokens": 0}, "scoring", 108),
        ({"logits_at_once": 0}, "scoring", 1500),
    ],
)
def test_each_setting_changes_its_part(changed, part, value):
    usual = {"devices": 4, "tokens": 5, "logits_at_once": 9}
    before, after = (
        sharded_scorer_parts([SMALL], **usual),
        sharded_scorer_parts([SMALL], **{**usual, **changed}),
    )
    assert {name: size for name, size in after.items() if size != before[name]} == {part: value}


QWEN3_32B = {
    "num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 25_600, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
}  # fmt: skip


def test_32_billion_on_eight_devices():
    """docs/scorer.md states these."""
    parts = sharded_scorer_parts([ModelSize.of(QWEN3_32B)], devices=8, tokens=16_384, logits_at_once=2**27)
    assert {name: round(size / 1e9, 1) for name, size in parts.items()} == {
        "scorer": 8.2, "scorer, gathered": 4.7, "scoring": 5.1,
    }  # fmt: skip
