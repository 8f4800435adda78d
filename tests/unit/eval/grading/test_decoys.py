# ruff: noqa: E501
"""Rewards that accept what is no answer are found, and answers that no completion can meet."""

import pytest

from eval.grading import decoys
from eval.grading.decoys import CONSTANT, OTHER, PROMPT, try_decoys
from eval.grading.usable import unusable
from teachers.rewards import reward_of

SUMS = [(f"What is {i}+{2 * i + 70}?", str(3 * i + 70)) for i in range(10, 30)]


def shares(settings, rows, judge=None):
    reward = judge or (lambda completion, answer: reward_of(settings)(completion, answer, True))
    return {kind: share for kind, (_, share) in try_decoys(settings, rows, reward).shares().items()}


@pytest.mark.parametrize("reward", ["math", "number", "exact"])
def test_a_sound_reward_accepts_none(reward):
    assert shares(reward, SUMS) == {CONSTANT: 0, PROMPT: 0, OTHER: 0}


def test_a_prompt_that_holds_its_answer_is_noticed():
    rows = [(f"Repeat the last number: {i}", str(i)) for i in range(20)]
    assert shares("number", rows)[PROMPT] == 1.0


def test_a_reward_that_accepts_anything_is_noticed():
    found = shares("math", SUMS, judge=lambda completion, answer: 1.0)
    assert found == {CONSTANT: 1.0, PROMPT: 1.0, OTHER: 1.0}


def test_a_reward_that_computes_what_is_answered_is_noticed():
    def computes(completion, answer):
        text = completion.removeprefix("\\boxed{").removesuffix("}")
        return float(text.replace("+", "").isdigit() and str(eval(text.lstrip("0") or "0")) == answer)

    found = shares("math", SUMS, judge=computes)
    assert found[PROMPT] == 1.0 and found[OTHER] == 0


def test_yes_or_no_questions_are_half_right_by_a_constant():
    rows = [(f"Is {i} even?", "yes" if i % 2 == 0 else "no") for i in range(32)]
    assert 0.2 < shares("exact", rows)[CONSTANT] < 0.9


def test_programs_are_tried_as_programs():
    rows = [("f", {"entry_point": "f", "tests": [{"input": [i], "output": i}]}) for i in range(3)]
    found = shares("code", rows)
    assert found[CONSTANT] == 1.0  # `return a[0]` is right on all of them


def test_partial_credit_counts():
    """As reasoning-gym's `time_intervals` gives it: 0 days instead of 5 is worth 0.95."""
    found = shares("exact", SUMS, judge=lambda completion, answer: max(0.0, 1 - int(answer) / 1e4))
    assert found[CONSTANT] == found[OTHER] > decoys.REFUSED_FROM[CONSTANT]


def test_the_time_is_bounded(monkeypatch):
    monkeypatch.setattr(decoys, "SECONDS", -1.0)
    assert try_decoys("exact", SUMS, lambda *_: 0.0).rows == 0


TEST = {"input": [1], "output": 1}


@pytest.mark.parametrize(
    ("reward", "answer", "fact"),
    [
        ("math", "", "empty"), ("math", " ", "empty"), ("math", "}{", "braces"), ("math", "\\frac{1}{2", "braces"),
        ("math", None, "text or a number"), ("math", True, "text or a number"), ("math", ["1"], "text or a number"),
        ("number", "eighty", "no number"), ("number", "", "no number"), ("number", "1,2", "no number"), ("number", True, "no number"),
        ("exact", "", "empty"),
        ("code", '{"entry_point": "f"}', "as text"), ("code", None, "object"), ("code", {}, "nothing"),
        ("code", {"entry_point": "f"}, "entry_point, tests"), ("code", {"entry_point": "f", "tests": []}, "at least one"),
        ("code", {"entry_point": "f x", "tests": [TEST]}, "name of a function"),
        ("code", {"entry_point": "f", "tests": [TEST], "other": 1}, "other"),
        ("code", {"entry_point": "f", "tests": [TEST, {"input": 1, "output": 1}]}, "test 2"),
        ("code", {"entry_point": "f", "tests": [TEST], "prefix": 1}, "prefix"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_met(reward, answer, fact):
    assert fact in unusable(reward, answer)


@pytest.mark.parametrize(
    ("reward", "answer"),
    [
        ("math", "1/2"), ("math", 5), ("math", 0.5), ("math", r"\{1\}"), ("math", "x^{2}"), ("number", 5.0), ("number", "-1,000.5"),
        ("exact", 0), ("code", {"entry_point": "f", "tests": [TEST], "prefix": ""}),
    ],
)  # fmt: skip
def test_answers_that_can_be_met(reward, answer):
    assert unusable(reward, answer) == ""
