"""Problems with a final answer: the last `\\boxed{}` by math-verify, or the last number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.digests import json_sha256
from common.errors import ConfigError
from common.remote import HubFiles, first_line, local_copy
from configs.blocks.benchmarks import MathBenchmark, StandardBenchmark
from eval.benchmarks.task import (
    BenchmarkTask,
    Pairs,
    local_file,
    once_each,
    read_rows,
    require_fields,
    require_unique_ids,
    row_ids,
    source_text,
)
from eval.grading import graders
from eval.grading.maths import limits
from eval.grading.maths.grading import TIMEOUT_S, VERDICTS, grade_math
from eval.records import Grade, Problem

BOX_INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class HubSource:
    """A published data set of problems on the Hugging Face hub."""

    path: str
    split: str
    revision: str
    licence: str
    n_problems: int
    """How many problems the published set has; another number is refused."""
    id_field: str = "id"
    """Field with a problem's id; where it is absent, `id` is taken, else the problem's position from 0."""
    configuration: str | None = None
    """Which of the data set's configurations; None if it has one."""
    problem_field: str = "problem"
    final_answer: Callable[[str], str] | None = None
    """Takes the final answer out of the field `answer`, or raises ValueError; None: the field is it."""

    @property
    def files(self) -> HubFiles:
        """Its files on the hub."""
        return HubFiles(self.path, "dataset", revision=self.revision)


def open_published(config: StandardBenchmark, hub: HubSource) -> BenchmarkTask:
    """A published benchmark from `config.path`, else from the hub.

    Fields of a problem, the same in both: `hub.problem_field`, `answer` (text or number). Raises ConfigError.
    """
    if config.path is not None:
        rows = read_rows(config.path, config.name)
        origin = f"{config.path} (a local copy; published as {hub.path} on the Hugging Face hub"
    else:
        rows = _load_hub(config.name, hub)
        split = f"split {hub.split}, revision {hub.revision}"
        if hub.configuration is not None:
            split = f"configuration {hub.configuration}, {split}"
        origin = f"{hub.path} on the Hugging Face hub ({split}"
    place = f"benchmark {config.name}"
    require_fields(rows, (hub.problem_field, "answer"), place, texts=(hub.problem_field,))
    if config.path is None and len(rows) != hub.n_problems:
        raise ConfigError(f"{place}: {hub.path} has {len(rows)} problems, not the published {hub.n_problems}")
    ids = [str(row.get(hub.id_field, row.get("id", number))) for number, row in enumerate(rows)]
    texts = [row[hub.problem_field] + BOX_INSTRUCTION for row in rows]
    answers = [row["answer"] for row in rows]
    if hub.final_answer is not None:
        answers = [
            _final_answer(hub.final_answer, answer, f"{place}: problem {number}")
            for number, answer in enumerate(answers, start=1)
        ]
    return _task(config, ids, texts, answers, f"{origin}; licence: {hub.licence})")


def open_own(config: MathBenchmark) -> BenchmarkTask:
    """The user's own problems; a field `id` is used if every problem has one. Raises ConfigError."""
    rows = read_rows(config.path, config.name)
    place = f"benchmark {config.name}: {config.path}"
    require_fields(rows, (config.problem_field, config.answer_field), place, texts=(config.problem_field,))
    ids = row_ids(rows)
    texts = [row[config.problem_field] + config.suffix for row in rows]
    answers = [row[config.answer_field] for row in rows]
    origin = f"{config.path} (the user's own file; licence: the user's)"
    if config.grader == "number":
        for id, answer in zip(ids, answers, strict=True):
            if not graders.is_number(graders.as_text(answer)):
                raise ConfigError(
                    f"{place}: problem {id!r} expects {graders.as_text(answer)[:60]!r}, which is no number; "
                    "grader: boxed compares expressions"
                )
        return _task(config, ids, texts, answers, origin, _grade_number, "{}")
    return _task(config, ids, texts, answers, origin)


def _task(
    config: StandardBenchmark | MathBenchmark,
    ids: list[str],
    texts: list[str],
    answers: list[Any],
    origin: str,
    grade: Callable[[Pairs], list[Grade]] | None = None,
    canonical: str = "\\boxed{{{}}}",
) -> BenchmarkTask:
    require_unique_ids(ids, f"benchmark {config.name}")
    problems = [
        Problem(id, ({"role": "user", "content": text},), graders.as_text(answer))
        for id, text, answer in zip(ids, texts, answers, strict=True)
    ][: config.limit]
    digest = json_sha256(
        {
            "problems": [[p.id, p.messages, p.reference] for p in problems],
            "grader": getattr(config, "grader", "boxed"),
            "limits": [*limits.ALL, TIMEOUT_S],
            "verdicts": VERDICTS,
        }
    )
    return BenchmarkTask(
        name=config.name,
        source=source_text(origin, problems, digest),
        problems=problems,
        grade=once_each(grade or _grade),
        digest=digest,
        canonical=lambda problem: canonical.format(problem.reference),
    )


def _grade(pairs: Pairs) -> list[Grade]:
    return [grade_math(completion, problem.reference) for problem, completion in pairs]


def _grade_number(pairs: Pairs) -> list[Grade]:
    return [graders.grade_number(completion, problem.reference) for problem, completion in pairs]


def _final_answer(final_answer: Callable[[str], str], answer: Any, place: str) -> str:
    try:
        return final_answer(str(answer))
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None


def _load_hub(name: str, hub: HubSource) -> list[dict[str, Any]]:
    try:
        folder = local_copy(hub.files)
    except ConfigError as error:
        raise ConfigError(f"benchmark {name}: {error}, or give {local_file(name)}") from None
    from datasets import load_dataset

    try:
        return load_dataset(str(folder), hub.configuration, split=hub.split).to_list()
    except Exception as error:
        raise ConfigError(
            f"benchmark {name}: {hub.path} cannot be read from {folder} ({first_line(error)}); where files "
            f"are missing there, `protege fetch CONFIG` completes it; or give {local_file(name)}"
        ) from error
