"""Rewards that train an expert: 1 for a right answer, 0 for any other.

Adding a reward is a function here and a line in REWARDS (and in `configs.schema.REWARDS`); the contract
test runs every entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from eval.graders import extract_program, grade_exact, grade_math, grade_number
from eval.records import Completion, Grade, Verdict
from eval.sandbox import run_tests

Reward = Callable[[str, Any, bool], float]
"""(completion, answer, finished) -> reward; `finished` is False where the length limit cut it off."""


def math_reward(completion: str, answer: Any, finished: bool) -> float:
    r"""1 if the last \boxed{} equals the answer, by math-verify; a truncated completion gets 0."""
    return _binary(grade_math(Completion(completion, 0, finished), str(answer)))


def code_reward(completion: str, answer: Any, finished: bool) -> float:
    """1 if the program passes all tests of `{"prefix", "entry_point", "tests"}` in the sandbox.

    The program is the prefix followed by the completion, or by its last fenced block.
    """
    if not finished or not completion.strip():
        return 0.0
    program = answer.get("prefix", "") + extract_program(completion)
    result = run_tests(program, answer["entry_point"], answer["tests"])
    return float(result.status == "passed")


def exact_reward(completion: str, answer: Any, finished: bool) -> float:
    """1 if the completion is the answer, white space around it aside."""
    return _binary(grade_exact(Completion(completion, 0, finished), answer))


def number_reward(completion: str, answer: Any, finished: bool) -> float:
    """1 if the last number of the completion is the answer; a truncated completion gets 0."""
    return _binary(grade_number(Completion(completion, 0, finished), answer))


def _binary(grade: Grade) -> float:
    """Raises RuntimeError where the grader failed: an answer nobody judged must not count as wrong."""
    if grade.verdict == Verdict.UNSCORED:
        raise RuntimeError(f"the reward could not judge an answer: {grade.detail}")
    return float(grade.verdict == Verdict.PASS)


REWARDS: dict[str, Reward] = {
    "math": math_reward,
    "code": code_reward,
    "exact": exact_reward,
    "number": number_reward,
}
"""Every reward by the name that a config gives it."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **_kwargs: Any,
) -> dict[str, float]:
    """verl's custom reward function: the reward that the row's `extra_info["reward"]` names.

    `ground_truth` is the answer as JSON text. Raises ValueError for an unknown reward.
    """
    row = extra_info or {}
    name = row.get("reward")
    if name not in REWARDS:
        raise ValueError(f"row of {data_source!r}: unknown reward {name!r}; valid: {', '.join(REWARDS)}")
    score = REWARDS[name](solution_str, json.loads(ground_truth), row.get("finished", True))
    return {"score": score, "acc": score}


def observe_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """The reward where it is only watched, as in a merge: a row without an answer counts 0."""
    if json.loads(ground_truth) is None:
        return {"score": 0.0, "acc": 0.0}
    return compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
