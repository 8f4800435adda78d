"""What verl hands to a reward and what it gets back; the rewards themselves have a contract test."""

from __future__ import annotations

import json

import pytest

from teachers.rewards import REWARDS, compute_score, observe_score
from tests.helpers.messages import refuses

ROW = {"reward": "exact", "index": 3, "id": "x", "domain": "d"}


def ask(function, solution="yes", answer="yes", **info):
    return function("d", solution, json.dumps(answer), {**ROW, **info}, extra="ignored")


def test_the_row_names_its_reward():
    assert ask(compute_score) == {"score": 1.0, "acc": 1.0}
    assert ask(compute_score, "no") == {"score": 0.0, "acc": 0.0}
    assert ask(compute_score, "\\boxed{2}", "2", reward="math")["score"] == 1.0
    assert ask(compute_score, "\\boxed{2}", "2")["score"] == 0.0  # exact: another text


def test_a_completion_that_was_cut_off_earns_nothing():
    assert ask(compute_score, finished=False)["score"] == 0.0
    assert ask(compute_score, finished=True)["score"] == 1.0


def test_an_answer_keeps_its_type_on_the_way_through_json():
    assert ask(compute_score, "é", "é")["score"] == 1.0
    assert ask(compute_score, "3", 3)["score"] == ask(compute_score, "3", "3")["score"]


def test_a_merge_watches_rewards_and_passes_over_rows_without_an_answer():
    assert ask(observe_score, "anything", None) == {"score": 0.0, "acc": 0.0}
    assert ask(observe_score) == {"score": 1.0, "acc": 1.0}
    assert ask(observe_score, "no") == {"score": 0.0, "acc": 0.0}
    assert ask(observe_score, finished=False)["score"] == 0.0


@pytest.mark.parametrize("function", [compute_score, observe_score])
def test_an_unknown_reward_is_an_error_and_not_a_zero(function):
    with refuses("'typo'", error=ValueError) as caught:
        ask(function, reward="typo")
    assert all(name in str(caught.value) for name in REWARDS)
