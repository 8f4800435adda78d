"""The prompt source `reasoning_gym`: its rows are generated, the same ones every time."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from configs.blocks import gym
from configs.blocks.gym import pack, unpack
from configs.blocks.prompts import ReasoningGymPrompts
from routing.sources.collect import load_prompts
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")


def prompts(**values: Any) -> list:
    given = {"kind": "reasoning_gym", "task": "chain_sum", "size": 6, "seed": 1, **values}
    return load_prompts(ReasoningGymPrompts(**given), "math")


def texts(**values: Any) -> list[str]:
    return [prompt.text for prompt in prompts(**values)]


def test_rows_have_a_place_and_an_answer_for_the_verifier():
    first = prompts()[0]
    assert first.where == "reasoning_gym chain_sum (seed 1), row 1" and first.owner == "math"
    assert first.answer.keys() == {"task", "parameters", "entry"}
    assert unpack(first.answer["entry"])["question"] == first.text


def test_another_process_generates_the_same():
    program = (
        "from configs.blocks.gym import GymTask, generate; import json;"
        "print(json.dumps([r['prompt'] for r in generate(GymTask(task='chain_sum', size=6, seed=1))]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    import json

    assert json.loads(out.stdout) == texts()


def test_each_option_changes_something():
    usual = texts()
    assert texts() == usual and len(usual) == 6
    assert len(texts(size=4)) == 4 and texts(size=4) == usual[:4]
    assert texts(limit=2) == usual[:2]
    assert texts(seed=2) != usual
    assert texts(parameters={"min_terms": 5, "max_terms": 5}) != usual
    assert texts(task="leg_counting") != usual
    assert texts(suffix="\nAnswer alone.") == [f"{text}\nAnswer alone." for text in usual]
    assert texts(template="Q: {{ prompt }}") == [f"Q: {text}" for text in usual]
    assert prompts(system="Be brief.")[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_problems_that_repeat_are_used_once():
    small = {"parameters": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
    found = texts(size=400, **small)
    assert len(found) == len(set(found)) < 400
    rows = gym.generate(gym.GymTask(task="chain_sum", size=400, seed=1, **small))
    answers = {row["prompt"]: row["answer"] for row in rows}
    assert all(row["answer"] == answers[row["prompt"]] for row in rows)  # a repetition, answer included


@pytest.mark.parametrize(
    "values, facts",
    [
        ({"task": "chain_sums"}, ("no such task", "'chain_sum'")),
        ({"task": "composite"}, ("no such task",)),
        ({"parameters": {"min_term": 2}}, ("unknown", "'min_term'", "'min_terms'")),
        ({"parameters": {"min_terms": 9, "max_terms": 2}}, ("parameters", "AssertionError")),
    ],
)
def test_a_task_that_is_none_is_refused(values, facts):
    with refuses("prompts: reasoning_gym task", *facts):
        prompts(**values)


@pytest.mark.parametrize(
    "value", [1, "a", None, [1, (2, 3)], {"a": {1, 2}}, {1: "b", (1, 2): []}, {"set": [1]}, {"items": {}}]
)
def test_what_json_cannot_hold_survives(value):
    import json

    assert unpack(json.loads(json.dumps(pack(value)))) == value
