"""Rewards that are blocks: every kind of `teachers.rewards.BLOCKS`, through what verl calls."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from configs.blocks import gym
from configs.blocks.rewards import (
    Reward,
    grader_settings,
    needs_answer,
    reward_identity,
    reward_record,
    row_text,
)
from teachers.rewards import BLOCKS, compute_score, observe_score, reward_of
from tests.helpers.messages import refuses

SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}

JUDGE = """
def reward(completion, answer, finished):
    if not finished:
        return 0
    return 1.0 if completion.strip() == answer else 0.5 if answer in completion else 0.0
"""


def block(**values: Any) -> Any:
    return TypeAdapter(Reward).validate_python(values)


def python_block(folder: Path, source: str = JUDGE, **values: Any) -> Any:
    (folder / "judge.py").write_text(source)
    return block(kind="python", path=folder / "judge.py", **values)


def score(reward: Any, text: str, answer: Any, finished: bool = True) -> float:
    """What verl gets, from a row of the training file."""
    info = {"reward": row_text(reward), "index": 7, "id": "abc", "finished": finished}
    found = compute_score("math", text, json.dumps(answer), info)
    assert found["acc"] == found["score"]
    return found["score"]


@pytest.fixture(scope="module")
def gym_row() -> dict[str, Any]:
    """A generated row of chain_sum: its prompt and what its verifier needs."""
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")
    return gym.generate(gym.GymTask(task="chain_sum", size=1, seed=3))[0]


@pytest.fixture(params=sorted(BLOCKS))
def case(request, tmp_path) -> tuple[Any, str, str, Any]:
    """(reward, right completion, wrong completion, answer) of each kind."""
    if request.param == "reasoning_gym":
        row = request.getfixturevalue("gym_row")
        own = gym.unpack(row["answer"]["entry"])["answer"]
        return block(kind="reasoning_gym", task="chain_sum"), f"so\n{own}", "so\n-99999", row["answer"]
    return {
        "regex": (block(kind="regex", pattern=r"#### (\d+)", group=1), "so #### 82", "so #### 83", "82"),
        "json_schema": (
            block(kind="json_schema", schema=SUM, compare_answer=True),
            '```json\n{"sum": 3}\n```', '```json\n{"sum": 4}\n```', {"sum": 3},
        ),
        "python": (python_block(tmp_path), "yes", "no", "yes"),
    }[request.param]  # fmt: skip


HOSTILE = [
    "",
    "\x00",
    "\ud800",
    "```",
    "```json\n" + "[" * 100_000,
    "x" * 1_000_000,
    "```json\nNaN\n```",
    "\\" * 99,
]


def test_right_wrong_and_truncated(case):
    reward, right, wrong, answer = case
    assert score(reward, right, answer) == 1.0
    assert score(reward, wrong, answer) == 0.0
    assert score(reward, right, answer, finished=False) == 0.0


def test_hostile_texts_score_zero(case):
    reward, _, _, answer = case
    assert [score(reward, text, answer) for text in HOSTILE] == [0.0] * len(HOSTILE)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=60))
def test_no_text_raises(case, text):
    reward, _, _, answer = case
    assert 0.0 <= score(reward, text, answer) <= 1.0


def test_settings_survive_the_training_file_and_decide_the_identity(case, tmp_path):
    reward, right, _, answer = case
    settings = json.loads(row_text(reward))
    assert settings == grader_settings(reward)
    assert reward_of(settings)(right, answer, True) == 1.0
    assert "path" not in reward_identity(reward) and "sha256" in reward_record(reward)


def test_a_watched_row_without_an_answer_that_is_needed_counts_zero(case):
    reward, right, _, _ = case
    assert needs_answer(reward)
    assert observe_score("d", right, "null", {"reward": row_text(reward)}) == {"score": 0.0, "acc": 0.0}


def test_every_kind_has_a_case_here():
    assert set(BLOCKS) == {"regex", "json_schema", "python", "reasoning_gym"}


# ------------------------------------------------------------------------------------------- regex


@pytest.mark.parametrize(
    "values, text, answer, expected",
    [
        ({"pattern": r"\d+"}, "a 1", None, 1.0),
        ({"pattern": r"\d+"}, "a", None, 0.0),
        ({"pattern": r"\d+", "group": 0}, "1 then 2", "2", 1.0),
        ({"pattern": r"\d+", "group": 0}, "1 then 2", "1", 0.0),
        ({"pattern": r"\d+", "group": 0, "match": "first"}, "1 then 2", "1", 1.0),
        ({"pattern": r"\d+", "group": 0, "match": "full"}, " 12 \n", 12, 1.0),
        ({"pattern": r"\d+", "group": 0, "match": "full"}, "x 12", 12, 0.0),
        ({"pattern": "YES"}, "yes", None, 0.0),
        ({"pattern": "YES", "flags": ["ignorecase"]}, "yes", None, 1.0),
        ({"pattern": "a.b"}, "a\nb", None, 0.0),
        ({"pattern": "a.b", "flags": ["dotall"]}, "a\nb", None, 1.0),
        ({"pattern": "^b$"}, "a\nb", None, 0.0),
        ({"pattern": "^b$", "flags": ["multiline"]}, "a\nb", None, 1.0),
        ({"pattern": "a b # note", "flags": ["verbose"]}, "ab", None, 1.0),
    ],
)
def test_each_option_of_regex_changes_something(values, text, answer, expected):
    assert score(block(kind="regex", **values), text, answer) == expected


def test_a_text_that_keeps_a_pattern_busy_is_wrong_in_bounded_time():
    began = time.monotonic()
    assert score(block(kind="regex", pattern=r"^(a|aa)+$"), "a" * 60 + "!", None) == 0.0
    assert time.monotonic() - began < 60  # for ever without a limit; the machine may be busy


# ------------------------------------------------------------------------------------- json_schema


@pytest.mark.parametrize(
    "values, text, answer, expected",
    [
        ({"schema": SUM}, 'first ```json\n{}\n``` then ```\n{"sum": 1}\n```', None, 1.0),
        ({"schema": SUM}, '{"sum": 1}', None, 0.0),
        ({"schema": SUM, "extract": "whole"}, ' {"sum": 1}\n', None, 1.0),
        ({"schema": SUM, "extract": "whole"}, '{"sum": "1"}', None, 0.0),
        ({"schema": {}, "extract": "whole", "compare_answer": True}, "1.0", 1, 1.0),
        ({"schema": {}, "extract": "whole", "compare_answer": True}, "true", 1, 0.0),
        ({"schema": {}, "extract": "whole", "compare_answer": True}, '"1"', 1, 0.0),
        ({"schema": {}, "extract": "whole"}, '"anything"', 1, 1.0),
        ({"schema": {}, "extract": "whole"}, "Infinity", None, 0.0),
    ],
)
def test_each_option_of_json_schema_changes_something(values, text, answer, expected):
    assert score(block(kind="json_schema", **values), text, answer) == expected


def test_a_schema_in_a_file_is_read_and_is_part_of_the_identity(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SUM))
    reward = block(kind="json_schema", schema_path=path, extract="whole")
    assert score(reward, '{"sum": 1}', None) == 1.0
    assert reward_identity(reward) == reward_identity(block(kind="json_schema", schema=SUM, extract="whole"))
    path.write_text(json.dumps({"type": "string"}))
    assert score(reward, '{"sum": 1}', None) == 0.0


# ------------------------------------------------------------------------------------------ python


def test_a_function_gives_partial_credit(tmp_path):
    assert score(python_block(tmp_path), "oh yes", "yes") == 0.5


def test_another_name_and_another_content(tmp_path):
    two = JUDGE + "\ndef other(completion, answer, finished):\n    return 0.25\n"
    first = python_block(tmp_path, two)
    before = reward_identity(first)
    assert score(python_block(tmp_path, two, function="other"), "yes", "yes") == 0.25
    assert reward_identity(python_block(tmp_path, two, function="other")) != before
    (tmp_path / "elsewhere").mkdir()
    assert reward_identity(python_block(tmp_path / "elsewhere", two)) == before
    assert reward_identity(python_block(tmp_path, two + "# changed")) != before


def test_a_function_may_do_without_an_answer(tmp_path):
    source = "def reward(completion, answer, finished):\n    return float(answer is None)\n"
    reward = python_block(tmp_path, source, needs_answer=False)
    assert not needs_answer(reward)
    assert observe_score("d", "x", "null", {"reward": row_text(reward)})["score"] == 1.0


@pytest.mark.parametrize(
    "body, facts",
    [
        ("raise KeyError('no such key')", ("KeyError", "no such key")),
        ("return float('nan')", ("nan", "0 to 1")),
        ("return 2.0", ("2.0", "0 to 1")),
        ("return 'good'", ("'good'", "number")),
        ("return None", ("None", "number")),
        ("import os; os._exit(3)", ()),
        ("import no_such_package", ("no_such_package",)),
        ("raise SystemExit", ("SystemExit",)),
    ],
)
def test_a_function_that_cannot_judge_ends_the_run_with_the_row(tmp_path, body, facts):
    reward = python_block(tmp_path, f"def reward(completion, answer, finished):\n    {body}\n")
    with refuses("row 7", "domain 'math'", "prompt abc", "judge.py: reward", *facts, error=RuntimeError):
        score(reward, "x", "y")


def test_what_a_function_prints_is_no_reply(tmp_path):
    source = "def reward(completion, answer, finished):\n    print('{\"value\": 0}')\n    return 1\n"
    assert score(python_block(tmp_path, source), "x", "y") == 1.0


# ----------------------------------------------------------------------------------- reasoning_gym


@pytest.mark.parametrize(
    "place, text",
    [("last_line", "so\n{}"), ("boxed", "\\boxed{{{}}}"), ("tag", "<answer>{}</answer> ok"), ("whole", "{}")],
)
def test_where_the_answer_of_a_gym_task_is_read(gym_row, place, text):
    own = gym.unpack(gym_row["answer"]["entry"])["answer"]
    reward = block(kind="reasoning_gym", task="chain_sum", answer=place)
    assert score(reward, text.format(own), gym_row["answer"]) == 1.0
    elsewhere = "nothing here" if place in ("boxed", "tag") else f"{own}\nbut no"
    assert score(reward, elsewhere, gym_row["answer"]) < 1.0


def test_a_row_of_another_task_is_not_judged(gym_row):
    reward = block(kind="reasoning_gym", task="leg_counting")
    with refuses("no entry", "'leg_counting'", error=RuntimeError):
        score(reward, "1", gym_row["answer"])


# -------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    "values, facts",
    [
        ({"kind": "regex", "pattern": "("}, ("'('", "missing )")),
        ({"kind": "regex", "pattern": "a", "group": 1}, ("0 groups",)),
        ({"kind": "regex", "pattern": "a*"}, ("empty text",)),
        ({"kind": "json_schema"}, ("`schema`",)),
        ({"kind": "json_schema", "schema": {"type": "objekt"}}, ("JSON Schema", "'objekt'")),
        ({"kind": "json_schema", "schema": {"$ref": "http://x.y/z"}}, ("http://x.y/z", "schema")),
        ({"kind": "json_schema", "schema": {"$schema": "draft-99"}}, ("draft-99", "draft")),
        ({"kind": "python", "path": "x.py", "function": "a-b"}, ("function",)),
    ],
)
def test_a_block_that_says_nothing_sound_is_refused(values, facts):
    with refuses(*facts, error=ValueError):
        block(**values)


@pytest.mark.parametrize(
    "content, words",
    [(None, "no such file"), (b"\xff\xfe", "text")],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content, words):
    path = tmp_path / "judge.py"
    if content is not None:
        path.write_bytes(content)
    with refuses(path, words):
        row_text(block(kind="python", path=path))
