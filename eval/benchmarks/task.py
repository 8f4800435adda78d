"""What every benchmark is, and how its files are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import expanded
from common.reading import json_rows
from configs.prompt_mode import PromptMode
from eval.records import Completion, Grade, Problem

HALF = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair, which no tokenizer or file takes."""

Pairs = list[tuple[Problem, Completion]]


@dataclass(frozen=True)
class BenchmarkTask:
    """A benchmark that is ready to be asked and graded."""

    name: str
    source: str
    """Where its problems are from: place, revision, licence, and the digest of their content."""
    problems: list[Problem]
    grade: Callable[[Pairs], list[Grade]] = field(repr=False)
    """Judges a list of answers, finished and unfinished ones alike; grades in their order."""
    digest: str
    """sha256 of all that changes a verdict: problems, references, grader settings."""
    canonical: Callable[[Problem], str] | None = field(default=None, repr=False)
    """An answer that should pass, as a model would write it; None if there is none."""
    program: Callable[[Problem, Completion], str] | None = field(default=None, repr=False)
    """The complete program that EvalPlus's checker runs for a finished answer; None if it judges none."""

    def asked_in(self, mode: PromptMode) -> BenchmarkTask:
        """The same problems with the system message of their domain; the digest stays that of the benchmark.

        Raises ConfigError for a problem that has a system message already.
        """
        if not mode.has_system:
            return self
        own = next((problem for problem in self.problems if not mode.takes(problem.messages)), None)
        if own is not None:
            raise ConfigError(
                f"benchmark {self.name}: problem {own.id!r} has a system message already, and its domain's "
                "system_prompt would be a second one; leave one of them out"
            )
        problems = [replace(problem, messages=mode.messages(problem.messages)) for problem in self.problems]
        return replace(self, problems=problems)


def once_each(grade: Callable[[Pairs], list[Grade]]) -> Callable[[Pairs], list[Grade]]:
    """The same grading, with answers that are alike judged once."""

    def grade_distinct(answers: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        keys = [(problem.id, completion.text, completion.finished) for problem, completion in answers]
        distinct = dict(zip(keys, answers, strict=True))
        grades = dict(zip(distinct, grade(list(distinct.values())), strict=True))
        return [grades[key] for key in keys]

    return grade_distinct


def self_check(task: BenchmarkTask) -> float:
    """Fraction of the problems whose canonical answer passes: the ceiling of any model's accuracy."""
    assert task.canonical is not None, f"{task.name} has no canonical answers"
    answers = [(problem, Completion(task.canonical(problem), 0, True)) for problem in task.problems]
    return sum(grade.verdict == "pass" for grade in task.grade(answers)) / len(answers)


def read_rows(path: Path, where: str) -> list[dict[str, Any]]:
    """Rows of a `.jsonl` or `.jsonl.gz` file. Raises ConfigError; `where` names the benchmark."""
    path = expanded(path)
    try:
        rows = [row for _, row in json_rows(path, "problems in .jsonl or .jsonl.gz")]
    except ConfigError as error:
        raise ConfigError(f"benchmark {where}: {error}") from None
    if not rows:
        raise ConfigError(f"benchmark {where}: {path}: no problems in it; expected one JSON object a line")
    return rows


def local_file(name: str, file: str = "FILE.jsonl") -> str:
    """What a config names where a standard benchmark is read from a file, for messages."""
    return f"a local copy: {{kind: standard, name: {name}, path: {file}}}"


def require_fields(
    rows: Sequence[dict[str, Any]],
    fields: Sequence[str],
    place: str,
    texts: Collection[str] = (),
    lists: Collection[str] = (),
) -> None:
    """Raises ConfigError if a row lacks one of the fields, or if one that must be a text or a list is none
    (`{}` is a list of nothing: MBPP+ writes it so); `place` says whose rows these are."""
    for number, row in enumerate(rows, start=1):
        missing = [name for name in fields if row.get(name) is None]
        if missing:
            raise ConfigError(
                f"{place}: problem {number} has no {missing[0]!r}; it has {', '.join(sorted(row))}"
            )
        for word, kind, of_kind in (("a text", str, texts), ("a list", list, lists)):
            given = [name for name in fields if name in of_kind and not (kind is list and row[name] == {})]
            if other := [name for name in given if not isinstance(row[name], kind)]:
                told = f"{other[0]!r} must be {word}, got {row[other[0]]!r:.60}"
                raise ConfigError(f"{place}: problem {number}: {told}")
        halves = [name for name in fields if isinstance(row[name], str) and HALF.search(row[name])]
        if halves:
            raise ConfigError(
                f"{place}: problem {number}: {halves[0]!r} holds half of a character (a lone surrogate)"
            )


def row_ids(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows' own `id`, where every row has one, else their numbers from 0."""
    own = all("id" in row for row in rows)
    return [str(row["id"]) if own else str(number) for number, row in enumerate(rows)]


def source_text(origin: str, problems: Sequence[Problem], digest: str) -> str:
    """`BenchmarkTask.source`: where the problems are from, how many, and their digest's beginning."""
    return f"{origin}; {len(problems)} problems, digest {digest[:12]}"


def require_unique_ids(ids: Sequence[str], place: str) -> None:
    """Raises ConfigError if two problems share an id."""
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise ConfigError(f"{place}: two problems have the id {id!r}; ids must be unique")
        seen.add(id)
