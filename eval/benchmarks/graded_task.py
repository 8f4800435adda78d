"""Problems of the user's own, or generated ones, judged by the grader that the config declares."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from common.digests import json_sha256
from common.errors import ConfigError
from configs.blocks.benchmarks import GradedBenchmark
from configs.blocks.gym import GymTask, generate, unpack
from configs.blocks.rewards import grader_settings, needs_answer, reward_identity
from eval.benchmarks.task import (
    BenchmarkTask,
    Pairs,
    once_each,
    read_rows,
    require_fields,
    require_unique_ids,
    row_ids,
    source_text,
)
from eval.grading import answer_graders, graders
from eval.grading.answer_graders import Settings, score
from eval.records import Grade, Problem

Rows = list[dict[str, Any]]


def open_own(config: GradedBenchmark) -> BenchmarkTask:
    """The problems of `config.path` or `config.generate`; a field `id` is used if every problem has one.

    Raises ConfigError, also for a grader that cannot judge these problems.
    """
    place = f"benchmark {config.name}"
    try:
        settings = grader_settings(config.grader)
        rows, origin = _generated_rows(config, config.generate) if config.generate else _own_rows(config)
    except ConfigError as error:
        known = (problem.startswith(place) for problem in error.problems)
        named = zip(error.problems, known, strict=True)
        raise ConfigError(*(told if has else f"{place}: {told}" for told, has in named)) from None
    _check_grader(config, settings, rows, place)
    problems = [_problem(config, row) for row in rows]
    digest = json_sha256(
        {
            "problems": [[p.id, p.messages, p.reference] for p in problems],
            "grader": reward_identity(config.grader),
            "pass_mark": config.pass_mark,
            "limits": [
                answer_graders.REGEX_LIMIT_S,
                answer_graders.SCHEMA_LIMIT_S,
                answer_graders.GYM_LIMIT_S,
                answer_graders.PYTHON_LIMIT_S,
            ],
        }
    )
    return BenchmarkTask(
        name=config.name,
        source=source_text(origin, problems, digest),
        problems=problems,
        grade=once_each(_grading(settings, config.pass_mark)),
        digest=digest,
        canonical=_canonical(settings, problems),
    )


def _own_rows(config: GradedBenchmark) -> tuple[Rows, str]:
    """Rows with `id`, `problem` and `answer` from the user's file, and where they are from."""
    assert config.path is not None, "the schema wants a path or problems to generate"
    rows = read_rows(config.path, config.name)
    place = f"benchmark {config.name}: {config.path}"
    wanted = [config.problem_field, *([config.answer_field] if needs_answer(config.grader) else [])]
    require_fields(rows, wanted, place, texts=(config.problem_field,))
    ids = row_ids(rows)
    require_unique_ids(ids, f"benchmark {config.name}")
    found = [
        {"id": id, "problem": row[config.problem_field], "answer": row.get(config.answer_field)}
        for id, row in zip(ids, rows, strict=True)
    ]
    return found[: config.limit], f"{config.path} (the user's own file; licence: the user's)"


def _generated_rows(config: GradedBenchmark, task: GymTask) -> tuple[Rows, str]:
    """Rows as `_own_rows` has them, from reasoning-gym; a problem that repeats an earlier one is left out."""
    rows = {row["prompt"]: row for row in generate(task)}.values()
    found = [
        {"id": str(number), "problem": row["prompt"], "answer": row["answer"]}
        for number, row in enumerate(rows)
    ]
    origin = f"reasoning-gym's task {task.task}, size {task.size}, seed {task.seed} (licence: Apache-2.0)"
    return found[: config.limit], origin


def _problem(config: GradedBenchmark, row: dict[str, Any]) -> Problem:
    answer = graders.as_text(row["answer"]) if isinstance(config.grader, str) else row["answer"]
    return Problem(row["id"], ({"role": "user", "content": row["problem"] + config.suffix},), answer)


def _check_grader(config: GradedBenchmark, settings: Settings, rows: Rows, place: str) -> None:
    """Raises ConfigError for a grader that does not work, or cannot judge one of the problems."""
    if settings == "number":
        for row in rows:
            if not graders.is_number(graders.as_text(row["answer"])):
                raise ConfigError(
                    f"{place}: problem {row['id']!r} expects {graders.as_text(row['answer'])[:60]!r}, which "
                    "is no number; grader: exact compares texts"
                )
    for row in rows:
        if problem := answer_graders.unusable_answer(settings, row["answer"]):
            raise ConfigError(f"{place}: problem {row['id']!r}: {problem}")
    if problem := answer_graders.unusable_grader(settings, rows[0]["answer"]):
        raise ConfigError(f"{place}: grader: {problem}")


def _grading(settings: Settings, pass_mark: float) -> Callable[[Pairs], list[Grade]]:
    return lambda pairs: [
        score(settings, completion, problem.reference).grade(pass_mark) for problem, completion in pairs
    ]


def _canonical(settings: Settings, problems: list[Problem]) -> Callable[[Problem], str] | None:
    """What writes a problem's own answer so that the grader finds it; None where there is none to write."""
    block = answer_graders.as_block(settings)
    kind = block["kind"]
    if kind in ("exact", "number"):
        return lambda problem: problem.reference
    if kind == "json_schema" and block["compare_answer"]:
        fence = "```json\n{}\n```" if block["extract"] == "fence" else "{}"
        return lambda problem: fence.format(json.dumps(problem.reference))
    if kind == "reasoning_gym":
        own = {problem.id: unpack(problem.reference["entry"])["answer"] for problem in problems}
        if all(isinstance(answer, str) and answer.strip() for answer in own.values()):
            written = answer_graders.WRITTEN[block["answer"]]
            return lambda problem: written.format(own[problem.id])
    return None
