"""Scores that cannot be right end the run, with the domain and the token."""

import pytest

from merging.exopd.agent_loop import check_scores
from tests.helpers.messages import refuses

torch = pytest.importorskip("torch")

RESPONSE = [4, 5, 6]


def decode(ids):
    return "".join("abcdefghij"[i] for i in ids)


def scores(*rows):
    return torch.tensor(rows)


GOOD = scores([-1.0, -2.0], [-0.5, -0.4], [-9.0, -1.0])


def test_plausible_scores_pass():
    check_scores(GOOD, RESPONSE, "math", 8.5, decode)
    check_scores(torch.zeros(0, 2), [], "math", 8.5, decode)


def test_a_large_ratio_is_refused_with_its_token():
    facts = ("teacher -9", "reference -1", "objective.largest_log_ratio = 7.5", "'efg'")
    with refuses("domain 'math'", "token 3 of 3", "'g'", *facts, error=ValueError):
        check_scores(GOOD, RESPONSE, "math", 7.5, decode)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [0, 1])
def test_a_number_that_is_not_finite_is_refused(value, column):
    wrong = GOOD.clone()
    wrong[1, column] = value
    with refuses("token 2 of 3", "'f'", error=ValueError):
        check_scores(wrong, RESPONSE, "code", 1e9, decode)
