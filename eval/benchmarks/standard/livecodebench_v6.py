"""LiveCodeBench's sixth window (arXiv 2403.07974): 175 contest problems of 2025, answered by programs.

Read from `test6.jsonl` of livecodebench/code_generation_lite, which is that window alone. The hub's file
could not be read here: fields and encoding are those that the benchmark's own code reads. A problem with
starter code is asked with it; the published scripts of arXiv 2602.12125 left it out, and it could not be
solved.

All tests, public and private, must pass, each within 6 s, as in the benchmark's own checker. Other than
there, an answer has 1 GiB, reads and writes no file, prints up to 1 MiB, and floats may differ by rounding.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import os
import pickletools
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from common.digests import json_sha256
from common.errors import ConfigError
from common.reading import LARGEST_FILE, plain_json
from common.remote import HubFiles, local_copy
from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks import contest_program
from eval.benchmarks.contest_program import lines_of
from eval.benchmarks.task import (
    BenchmarkTask,
    Pairs,
    local_file,
    once_each,
    read_rows,
    require_fields,
    require_unique_ids,
    source_text,
)
from eval.grading.programs import extract_program
from eval.records import Completion, Grade, Problem, Verdict
from eval.sandbox.client import SandboxError, run_tests

REPOSITORY, FILE = "livecodebench/code_generation_lite", "test6.jsonl"
SOURCE = HubFiles(REPOSITORY, "dataset", (FILE,))
N_PROBLEMS = 175
LICENCE = "see the source"
FIELDS = ("question_id", "question_content", "public_test_cases", "private_test_cases")
TEXTS = FIELDS[1:]
TEST_SECONDS = 6.0

STARTER = (
    "Complete this code and answer with the whole of it in a single fenced code block.\n\n```python\n{}\n```"
)
STDIN = (
    "Write a Python program that reads the input from standard input and prints the output, and answer with "
    "it in a single fenced code block."
)
ENTRY = "run_answer"


@dataclass(frozen=True)
class Judge:
    """What an answer is judged by."""

    function: str | None
    """Name of the function that is called; None for a program that reads stdin."""
    tests: tuple[dict[str, Any], ...]
    """`{"input": [argument, ...], "output": expected}` as `eval.sandbox.client` takes them."""


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, a copy of `test6.jsonl`, else from the hub. Raises ConfigError."""
    place = f"benchmark {config.name}"
    if config.path is not None:
        rows = read_rows(config.path, config.name)
        origin = f"{config.path} (a local copy; published as {FILE} of {REPOSITORY}; licence: {LICENCE})"
    else:
        rows = _download(config.name)
        origin = f"{FILE} of {REPOSITORY} on the Hugging Face hub (revision main; licence: {LICENCE})"
        if len(rows) != N_PROBLEMS:
            raise ConfigError(f"{place}: {origin} has {len(rows)} problems, not {N_PROBLEMS}")
    require_fields(rows, FIELDS, place, TEXTS)
    require_unique_ids([str(row["question_id"]) for row in rows], place)
    problems = [_problem(row, f"{place}: problem {row['question_id']!r}") for row in rows[: config.limit]]
    digest = json_sha256(
        {
            "problems": [[p.id, p.messages, p.reference.function, list(p.reference.tests)] for p in problems],
            "program": inspect.getsource(contest_program),
            "seconds": TEST_SECONDS,
        }
    )
    return BenchmarkTask(
        name=config.name,
        source=source_text(origin, problems, digest),
        problems=problems,
        grade=once_each(_grade),
        digest=digest,
        canonical=_canonical,
    )


def _download(name: str) -> list[dict[str, Any]]:
    try:
        folder = local_copy(SOURCE)
    except ConfigError as error:
        raise ConfigError(f"benchmark {name}: {error}, or give {local_file(name, FILE)}") from None
    return read_rows(folder / FILE, name)


# ----------------------------------------------------------------------------------------- problems


def _problem(row: dict[str, Any], place: str) -> Problem:
    starter = str(row.get("starter_code") or "").strip()
    task = STARTER.format(starter) if starter else STDIN
    text = f"{row['question_content'].strip()}\n\n{task}"
    return Problem(str(row["question_id"]), ({"role": "user", "content": text},), _judge(row, place))


def _judge(row: dict[str, Any], place: str) -> Judge:
    try:
        given = _json(row["public_test_cases"]) + _private(row["private_test_cases"])
        function = _json(row.get("metadata") or "{}").get("func_name")
        if not given:
            raise ValueError("no test")
        kinds = {test["testtype"] for test in given}
        if kinds == {"stdin"}:
            tests = [{"input": [t["input"]], "output": lines_of(t["output"])} for t in given]
            return Judge(None, tuple(tests))
        if kinds != {"functional"} or not function:
            raise ValueError(f"test types {sorted(kinds)}, function {function!r}")
        tests = [
            {
                "input": [[_json(line) for line in t["input"].split("\n") if line.strip()]],
                "output": _json(t["output"]),
            }
            for t in given
        ]
        return Judge(function, tuple(tests))
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise ConfigError(f"{place}: its tests cannot be read: {type(error).__name__}: {error}") from None


def _private(encoded: str) -> list[dict[str, Any]]:
    """Tests as JSON, or as base64 of zlib of a pickled text of JSON."""
    if encoded.lstrip().startswith("["):
        return _json(encoded)
    inflated = zlib.decompressobj()
    pickled = inflated.decompress(base64.b64decode(encoded), LARGEST_FILE)
    if not inflated.eof:
        raise ValueError(f"cut off, or more than {LARGEST_FILE} bytes")
    return _json(_pickled_text(pickled))


def _json(text: str) -> Any:
    return plain_json(text.encode(), "its text")


TEXT, AROUND_IT = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"), (
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP",
)  # fmt: skip
"""Names of the steps of a pickle that make a text, and of those that may stand around it."""


def _pickled_text(pickled: bytes) -> str:
    """The one text of a pickle. Its steps are read and none is taken, so nothing in it can run or grow."""
    steps = [(step.name, value) for step, value, _ in pickletools.genops(pickled)]
    texts = [str(value) for name, value in steps if name in TEXT]
    if strange := [name for name, _ in steps if name not in (*TEXT, *AROUND_IT)]:
        raise ValueError(f"a pickle of something else than a text ({strange[0]})")
    if len(texts) != 1:
        raise ValueError(f"a pickle of {len(texts)} texts")
    return texts[0]


# ------------------------------------------------------------------------------------------ grading


def _grade(pairs: Pairs) -> list[Grade]:
    """One program a core; what ran out of time is tried once more, alone."""
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        grades = list(pool.map(lambda pair: _run(*pair), pairs))
    return [
        _run(*pair) if grade.detail.startswith("timeout") else grade
        for pair, grade in zip(pairs, grades, strict=True)
    ]


def _run(problem: Problem, completion: Completion) -> Grade:
    """The answer on its tests, up to the first that fails."""
    if not completion.finished:
        return Grade(Verdict.FAIL, "truncated")
    judge: Judge = problem.reference
    program = _program(judge.function, extract_program(completion.text, _defined(judge)))
    for number, test in enumerate(judge.tests):
        try:
            result = run_tests(program, ENTRY, [test], TEST_SECONDS)
        except SandboxError as error:
            return Grade(Verdict.UNSCORED, str(error))
        if result.status != "passed":
            reason = result.detail.removeprefix("test 0: ").removesuffix(" in test 0")
            return Grade(Verdict.FAIL, f"{result.status} in test {number} of {len(judge.tests)}: {reason}")
    return Grade(Verdict.PASS, "")


def _defined(judge: Judge) -> str | None:
    """The name that an answer must define."""
    return None if judge.function is None else judge.function


def _canonical(problem: Problem) -> str:
    """A program that knows this problem's tests: it shows that right outputs are accepted here."""
    judge: Judge = problem.reference
    if judge.function is None:
        known = {_key(test["input"][0]): _printed(test["output"]) for test in judge.tests}
        answer = "print(KNOWN[key(sys.stdin.read())])"
    else:
        known = {_key(repr(test["input"][0])): test["output"] for test in judge.tests}
        answer = f"def {judge.function}(*given): return KNOWN[key(repr(list(given)))]"
    return (
        "```python\nimport hashlib, sys\n"
        f"KNOWN = {known!r}\n"
        "def key(text): return hashlib.sha256(text.encode()).hexdigest()\n"
        f"{answer}\n```"
    )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _printed(lines: list[str | list[str]]) -> str:
    return "\n".join(line if isinstance(line, str) else " ".join(line) for line in lines)


def _program(function: str | None, source: str) -> str:
    call = f"run_function({source!r}, {function!r}, given)" if function else f"run_stdin({source!r}, given)"
    return f"{inspect.getsource(contest_program)}\n\ndef {ENTRY}(given):\n    return {call}\n"
