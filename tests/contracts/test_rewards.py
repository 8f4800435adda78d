"""Every reward: right 1, wrong 0, empty 0, garbage 0, truncated 0, and no text makes it raise."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.blocks import rewards
from teachers.rewards import REWARDS, compute_score
from tests.helpers.messages import refuses

CODE = {
    "prefix": "def f(xs):\n    return ",
    "entry_point": "f",
    "tests": [{"input": [[1, 2]], "output": 3}, {"input": [[]], "output": 0}],
}
CASES = {
    "math": ("so \\boxed{85}", "so \\boxed{84}", "85"),
    "code": ("sum(xs)", "max(xs)", CODE),
    "exact": ("yes\n", "no", "yes"),
    "number": ("12 + 70 = 82.", "82 is 12 + 71", "82"),
}
"""Right completion, wrong completion, answer; a new reward needs an entry here."""

GARBAGE = ["{]}\\boxed{\\frac{", "\x00\ud800", "```", "\\boxed{9^{9^{9^9}}}", "lambda: (yield)", "\\" * 50]


def test_every_reward_has_a_case_and_a_name_in_the_schema():
    assert set(REWARDS) == set(CASES) == set(rewards.REWARDS)


@pytest.mark.parametrize("name", REWARDS)
def test_right_wrong_empty_and_truncated(name):
    right, wrong, answer = CASES[name]
    reward = REWARDS[name]
    assert reward(right, answer, True) == 1.0
    assert reward(wrong, answer, True) == 0.0
    assert reward("", answer, True) == 0.0
    assert reward(right, answer, False) == 0.0


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_scores_zero(name, text):
    assert REWARDS[name](text, CASES[name][2], True) == 0.0


@pytest.mark.parametrize("name", REWARDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=60))
def test_no_text_raises(name, text):
    assert REWARDS[name](text, CASES[name][2], True) in (0.0, 1.0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.text(alphabet="0123456789x+-*/^{}()\\fracsqt, =.!", max_size=25))
def test_no_boxed_expression_raises(content):
    assert REWARDS["math"](f"\\boxed{{{content}}}", "\\frac{1}{7}", True) in (0.0, 1.0)


@pytest.mark.parametrize("name", REWARDS)
def test_verl_gets_its_score(name):
    right, wrong, answer = CASES[name]
    info = {"reward": name, "index": 0}
    ask = {"data_source": "d", "ground_truth": json.dumps(answer), "extra_info": info}
    assert compute_score(solution_str=right, **ask) == {"score": 1.0, "acc": 1.0}
    assert compute_score(solution_str=wrong, **ask) == {"score": 0.0, "acc": 0.0}


@pytest.mark.parametrize("info", [None, {}, {"reward": "maths"}])
def test_an_unknown_reward_is_refused_with_the_known_ones(info):
    with refuses("math", "code", "exact", error=ValueError):
        compute_score("d", "x", '"x"', info)
