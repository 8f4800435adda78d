"""Rewards that train an expert: a number in [0, 1] for each answer, 1 for a right one.

Adding a named reward is a function here and a line in REWARDS (and in `configs.blocks.rewards`); adding a
kind of block is a grader in `eval.grading.answer_graders` and a line in BLOCKS. The contract test runs every
entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from eval.grading.answer_graders import Score, Settings, score
from eval.grading.graders import as_text
from eval.grading.maths.grading import grade_math
from eval.grading.programs import extract_program
from eval.records import Completion, Grade, Verdict
from eval.sandbox.client import run_tests

Reward = Callable[[str, Any, bool], float]
"""(completion, answer, finished) -> reward; `finished` is False where the length limit cut it off."""


def math_reward(completion: str, answer: Any, finished: bool) -> float:
    r"""1 if the last \boxed{} equals the answer, by math-verify; a truncated completion gets 0."""
    return _binary(grade_math(Completion(completion, 0, finished), as_text(answer)))


def code_reward(completion: str, answer: Any, finished: bool) -> float:
    """1 if the program passes all tests of `{"prefix", "entry_point", "tests"}` in the sandbox.

    The program is the prefix followed by the completion, or by its fenced block that defines the entry point.
    """
    if not finished or not completion.strip():
        return 0.0
    program = answer.get("prefix", "") + extract_program(completion, answer["entry_point"])
    result = run_tests(program, answer["entry_point"], answer["tests"])
    return float(result.status == "passed")


def exact_reward(completion: str, answer: Any, finished: bool) -> float:
    """1 if the completion is the answer, white space around it aside."""
    return _judged(score("exact", Completion(completion, 0, finished), answer))


def number_reward(completion: str, answer: Any, finished: bool) -> float:
    """1 if the last number of the completion is the answer; a truncated completion gets 0."""
    return _judged(score("number", Completion(completion, 0, finished), answer))


def _binary(grade: Grade) -> float:
    """Raises RuntimeError where the grader failed: an answer nobody judged must not count as wrong."""
    if grade.verdict == Verdict.UNSCORED:
        raise RuntimeError(f"the reward could not judge an answer: {grade.detail}")
    return float(grade.verdict == Verdict.PASS)


def _judged(found: Score) -> float:
    """Raises RuntimeError where the grader failed, as `_binary` does."""
    if found.value is None:
        raise RuntimeError(f"the reward could not judge an answer: {found.detail}")
    return found.value


def graded_block(settings: dict[str, Any]) -> Reward:
    """The reward of a block that `eval.grading.answer_graders` judges."""
    return lambda completion, answer, finished: _judged(
        score(settings, Completion(completion, 0, finished), answer)
    )


REWARDS: dict[str, Reward] = {
    "math": math_reward,
    "code": code_reward,
    "exact": exact_reward,
    "number": number_reward,
}
"""Every reward by the name that a config gives it."""

BLOCKS: dict[str, Callable[[dict[str, Any]], Reward]] = {
    "regex": graded_block,
    "json_schema": graded_block,
    "python": graded_block,
    "reasoning_gym": graded_block,
}
"""From a block's settings (`configs.blocks.rewards.grader_settings`) to its reward, by `kind`."""


def reward_of(settings: Settings) -> Reward:
    """The reward that a config's settings describe. Raises ValueError for one that is not known."""
    if isinstance(settings, str) and settings in REWARDS:
        return REWARDS[settings]
    if isinstance(settings, dict) and settings.get("kind") in BLOCKS:
        return BLOCKS[settings["kind"]](settings)
    raise ValueError(f"unknown reward {settings!r:.80}; valid: {', '.join([*REWARDS, *BLOCKS])}")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **_kwargs: Any,
) -> dict[str, float]:
    """verl's custom reward function: the reward that the row's `extra_info["reward"]` says.

    `ground_truth` is the answer as JSON text. Raises ValueError for an unknown reward, and RuntimeError,
    naming the row, where the reward could not judge.
    """
    row = extra_info or {}
    try:
        reward = reward_of(_settings(row.get("reward")))
    except ValueError as error:
        raise ValueError(f"row of {data_source!r}: {error}") from None
    try:
        value = reward(solution_str, json.loads(ground_truth), row.get("finished", True))
    except RuntimeError as error:
        place = f"row {row.get('index')} of domain {data_source!r} (prompt {row.get('id')})"
        raise RuntimeError(f"{place}: {error}") from error
    return {"score": value, "acc": value}


def observe_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """The reward where it is only watched, as in a merge: a row without an answer it needs counts 0."""
    if json.loads(ground_truth) is None and _needs_answer((extra_info or {}).get("reward")):
        return {"score": 0.0, "acc": 0.0}
    return compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)


def _needs_answer(reward: Any) -> bool:
    settings = _settings(reward)
    return not isinstance(settings, dict) or settings.get("needs_answer", True)


def _settings(reward: Any) -> Any:
    """What a row says of its reward: a name, or a block as JSON text."""
    return _parsed(reward) if isinstance(reward, str) and reward.startswith("{") else reward


_parsed = lru_cache(maxsize=64)(json.loads)
