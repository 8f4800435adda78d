"""Programming problems in EvalPlus's format, judged by EvalPlus's checker on base and plus inputs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from configs.benchmarks import EvalPlusBenchmark, StandardBenchmark
from configs.load import ConfigError
from eval.benchmarks import evalplus_grading, evalplus_worker
from eval.benchmarks.evalplus_grading import EvalPlusGrading
from eval.benchmarks.task import (
    BenchmarkTask,
    Pairs,
    content_digest,
    read_rows,
    require_fields,
    require_unique_ids,
    source_text,
)
from eval.graders import extract_program
from eval.records import Completion, Grade, Problem, Verdict

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol")
INSTRUCTION = (
    "Solve this task in Python. Answer with one complete program, imports included, in a single "
    "fenced code block.\n\n```python\n{prompt}\n```"
)
LICENCE = "Apache-2.0"

Mode = Literal["extract", "append"]


def open_published(config: StandardBenchmark, dataset: str, release: str, n_problems: int) -> BenchmarkTask:
    """HumanEval+ or MBPP+ from `config.path`, else by EvalPlus's own download.

    dataset: EvalPlus's name, "humaneval" or "mbpp". release: its name among EvalPlus's releases.
    Raises ConfigError.
    """
    if config.path is not None:
        rows = read_rows(config.path, config.name)
        origin = f"{config.path} (a local copy of EvalPlus's {release}; licence: {LICENCE})"
    else:
        version, rows = _download(config.name, dataset, release)
        origin = f"EvalPlus's release {release} {version} (licence: {LICENCE})"
        if len(rows) != n_problems:
            raise ConfigError(f"benchmark {config.name}: {origin} has {len(rows)} problems, not {n_problems}")
    place = f"benchmark {config.name}: {config.path or release}"
    require_fields(rows, FIELDS, place)
    texts = [INSTRUCTION.format(prompt=row["prompt"].strip()) for row in rows]
    return _task(config, rows, texts, dataset, "extract", origin, place)


def open_own(config: EvalPlusBenchmark) -> BenchmarkTask:
    """A problem file of the user's in HumanEval+ format. Raises ConfigError."""
    rows = read_rows(config.path, config.name)
    place = f"benchmark {config.name}: {config.path}"
    require_fields(rows, (*FIELDS, config.prompt_field), place)
    texts = [str(row[config.prompt_field]) for row in rows]
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
    digest = content_digest(
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
    return extract_program(completion.text)


def _canonical(mode: Mode, problem: Problem) -> str:
    if mode == "append":
        return problem.reference["canonical_solution"]
    return f"```python\n{problem.reference['prompt']}{problem.reference['canonical_solution']}\n```"


# ----------------------------------------------------------------------------------------- download

_FETCH = """
import sys
from evalplus.data.humaneval import HUMANEVAL_PLUS_VERSION
from evalplus.data.mbpp import MBPP_PLUS_VERSION
from evalplus.data.utils import get_dataset_metadata, make_cache
dataset, release = sys.argv[1:]
version = {"humaneval": HUMANEVAL_PLUS_VERSION, "mbpp": MBPP_PLUS_VERSION}[dataset]
url, path = get_dataset_metadata(release, version, False)
make_cache(url, path)
print()
print(version, path, sep="\\t")
"""


@cache
def _download(name: str, dataset: str, release: str) -> tuple[str, list[dict[str, Any]]]:
    """EvalPlus's own download, in a process whose cache folder is a temporary one: (version, rows)."""
    with tempfile.TemporaryDirectory(prefix="protege-evalplus-") as folder:
        result = subprocess.run(
            [sys.executable, "-P", "-c", _FETCH, dataset, release],
            env={**os.environ, "XDG_CACHE_HOME": folder, "TMPDIR": folder},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(
                f"benchmark {name}: EvalPlus's {release} cannot be downloaded ({reason}); give a local copy: "
                f"{{kind: standard, name: {name}, path: {release}.jsonl.gz}}"
            )
        version, path = result.stdout.splitlines()[-1].split("\t")
        return version, read_rows(Path(path), name)
