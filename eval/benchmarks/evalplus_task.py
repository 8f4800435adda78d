"""Programming problems in EvalPlus's format, judged by EvalPlus's checker on base and plus inputs."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from common.digests import json_sha256
from common.errors import ConfigError
from common.remote import local_copy
from configs.blocks.benchmarks import EvalPlusBenchmark, StandardBenchmark
from eval.benchmarks import evalplus_grading, evalplus_worker
from eval.benchmarks.evalplus_grading import EvalPlusGrading
from eval.benchmarks.evalplus_release import EvalPlusRelease
from eval.benchmarks.task import (
    BenchmarkTask,
    Pairs,
    local_file,
    read_rows,
    require_fields,
    require_unique_ids,
    source_text,
)
from eval.grading.programs import extract_program
from eval.records import Completion, Grade, Problem, Verdict

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol")
TEXTS, LISTS = ("task_id", "prompt", "entry_point", "canonical_solution"), ("base_input", "plus_input")
INSTRUCTION = (
    "Solve this task in Python. Answer with one complete program, imports included, in a single "
    "fenced code block.\n\n```python\n{prompt}\n```"
)
LICENCE = "Apache-2.0"

Mode = Literal["extract", "append"]


def open_published(config: StandardBenchmark, release: EvalPlusRelease) -> BenchmarkTask:
    """HumanEval+ or MBPP+ from `config.path`, else EvalPlus's own file. Raises ConfigError."""
    if config.path is not None:
        rows = read_rows(config.path, config.name)
        origin = f"{config.path} (a local copy of EvalPlus's {release.release}; licence: {LICENCE})"
    else:
        rows = _published(config.name, release)
        origin = f"EvalPlus's release {release.release} {release.version} (licence: {LICENCE})"
        if len(rows) != release.n_problems:
            raise ConfigError(
                f"benchmark {config.name}: {origin} has {len(rows)} problems, not {release.n_problems}; "
                f"it lies in {release.cached()}; remove it, and `protege fetch CONFIG` downloads it again"
            )
    place = f"benchmark {config.name}: {config.path or release.release}"
    require_fields(rows, FIELDS, place, TEXTS, LISTS)
    texts = [INSTRUCTION.format(prompt=row["prompt"].strip()) for row in rows]
    return _task(config, rows, texts, release.dataset, "extract", origin, place)


def _published(name: str, release: EvalPlusRelease) -> list[dict[str, Any]]:
    try:
        path = local_copy(release)
    except ConfigError as error:
        copy = local_file(name, f"{release.release}.jsonl.gz")
        raise ConfigError(f"benchmark {name}: {error}, or give {copy}") from None
    return read_rows(path, name)


def open_own(config: EvalPlusBenchmark) -> BenchmarkTask:
    """A problem file of the user's in HumanEval+ format. Raises ConfigError."""
    rows = read_rows(config.path, config.name)
    place = f"benchmark {config.name}: {config.path}"
    require_fields(rows, (*FIELDS, config.prompt_field), place, (*TEXTS, config.prompt_field), LISTS)
    texts = [row[config.prompt_field] for row in rows]
    origin = f"{config.path} (the user's own file; licence: the user's)"
    return _task(config, rows, texts, "humaneval", config.completion, origin, place)


def _task(
    config: StandardBenchmark | EvalPlusBenchmark,
    rows: list[dict[str, Any]],
    texts: list[str],
    dataset: str,
    mode: Mode,
    origin: str,
    place: str,
) -> BenchmarkTask:
    ids = [str(row["task_id"]) for row in rows]
    require_unique_ids(ids, place)
    rows, texts = rows[: config.limit], texts[: config.limit]
    problems = [
        Problem(id, ({"role": "user", "content": text},), {key: row[key] for key in FIELDS})
        for id, text, row in zip(ids, texts, rows, strict=False)
    ]
    digest = json_sha256(
        {
            "problems": [[p.id, p.messages, p.reference] for p in problems],
            "grading": [
                dataset,
                mode,
                evalplus_grading.MIN_TIME_LIMIT_S,
                evalplus_grading.ALONE_TIME_LIMIT_S,
                evalplus_worker.TIME_FACTOR,
            ],
        }
    )
    grading = EvalPlusGrading(dataset, [problem.reference for problem in problems])
    return BenchmarkTask(
        name=config.name,
        source=f"{source_text(origin, problems, digest)}; graded by EvalPlus's checker",
        problems=problems,
        grade=partial(_grade, grading, mode),
        digest=digest,
        canonical=partial(_canonical, mode),
        program=partial(program_of, mode),
    )


def _grade(grading: EvalPlusGrading, mode: Mode, pairs: Pairs) -> list[Grade]:
    """Unfinished answers fail unread; programs that are alike run once."""
    solutions = [
        (problem.reference["task_id"], program_of(mode, problem, completion)) for problem, completion in pairs
    ]
    finished = [s for s, (_, completion) in zip(solutions, pairs, strict=True) if completion.finished]
    distinct = list(dict.fromkeys(finished))
    grades = dict(zip(distinct, grading.grade(distinct), strict=True)) if distinct else {}
    truncated = Grade(Verdict.FAIL, "truncated")
    return [
        grades[solution] if completion.finished else truncated
        for solution, (_, completion) in zip(solutions, pairs, strict=True)
    ]


def program_of(mode: Mode, problem: Problem, completion: Completion) -> str:
    """The complete program that an answer stands for, exactly as it is graded."""
    if mode == "append":
        return problem.reference["prompt"] + completion.text
    return extract_program(completion.text, problem.reference["entry_point"])


def _canonical(mode: Mode, problem: Problem) -> str:
    if mode == "append":
        return problem.reference["canonical_solution"]
    return f"```python\n{problem.reference['prompt']}{problem.reference['canonical_solution']}\n```"
