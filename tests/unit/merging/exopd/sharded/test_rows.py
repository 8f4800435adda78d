"""Who scores what, and the columns that come of it, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from merging.exopd.sharded.rows import (
    Rollout,
    dealt,
    joined,
    orders,
    response_scores,
    teacher_logprobs,
)

torch = pytest.importorskip("torch")

REFERENCES = {"math": "reference", "code": "reference:1"}


def rollout(tokens: int, response: int, teacher: str = "math", reward_scale: float = 1.25) -> Rollout:
    return Rollout.of(np.arange(tokens), response, teacher, reward_scale, REFERENCES)


def test_largest_first_to_the_share_that_has_least():
    """9 | 7 5 -> 9 3 | 7 5, then 2 to the first of two shares of 12."""
    assert dealt([3, 9, 5, 7, 2], 2) == [[1, 0, 4], [3, 2]]
    assert dealt([4], 3) == [[0], [], []]
    assert dealt([], 2) == [[], []]


@pytest.mark.parametrize(
    "teacher, reward_scale, models",
    [
        ("math", 1.25, ("math", "reference")),
        ("code", 0.5, ("code", "reference:1")),
        ("math", 1.0, ("math",)),
        ("code", 0.0, ("reference:1",)),
    ],
)
def test_a_rollout_is_read_by_its_teacher_and_its_reference(teacher, reward_scale, models):
    assert rollout(5, 2, teacher, reward_scale).models == models


def test_every_rank_is_given_the_same_models_in_the_same_order():
    rollouts = [rollout(6, 2), rollout(9, 3, "code"), rollout(4, 1), rollout(8, 5, "math", 1.0)]
    found = orders(rollouts, 3)
    assert [list(order) for order in found] == [["code", "math", "reference", "reference:1"]] * 3
    places = {model: [[place for place, _, _ in order[model]] for order in found] for model in found[0]}
    assert places == {
        "code": [[1], [], []],
        "math": [[3], [0], [2]],
        "reference": [[0], [2], []],  # the fourth rollout's lambda does not read it
        "reference:1": [[1], [], []],
    }
    for order in found:
        for place, token_ids, response in (row for rows in order.values() for row in rows):
            assert token_ids is rollouts[place].token_ids and response == rollouts[place].response_tokens


def test_the_columns_stand_where_the_loss_reads_them():
    """Five tokens, the last two of which answer: positions 2 and 3 score them."""
    first, second = rollout(5, 2), rollout(3, 1, reward_scale=1.0)
    answers = joined(
        [
            {"math": {0: np.float32([-1, -2])}, "reference": {}},
            {"math": {1: np.float32([-5])}, "reference": {0: np.float32([-3, -4])}},
        ]
    )
    scores = response_scores(0, first, answers)
    assert scores.tolist() == [[-1, -3], [-2, -4]]
    assert teacher_logprobs(first, scores).tolist() == [[0, 0], [0, 0], [-1, -3], [-2, -4], [0, 0]]
    alone = response_scores(1, second, answers)
    assert teacher_logprobs(second, alone).tolist() == [[0, 0], [-5, -5], [0, 0]]
