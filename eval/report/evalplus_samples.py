"""The programs of a model's answers in EvalPlus's own sample format, so that others can judge them.

The format is that of `evalplus.data.utils.load_solutions` (EvalPlus 0.3.1): one JSON object a line, with
`task_id` and, as `solution`, a complete program.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text
from configs.blocks.benchmarks import PROGRAM_FILES
from eval.benchmarks.task import BenchmarkTask
from eval.records import Completion, Problem, Sample

CUT_OFF = "# The answer was cut off at the length limit and counts as wrong, whatever it holds.\n"
"""Stands for an answer that fails unread: a program that defines nothing fails in EvalPlus too."""


def write_evalplus_samples(task: BenchmarkTask, samples: Sequence[Sample], folder: Path) -> None:
    """Writes `<benchmark>.evalplus.jsonl` (greedy) and `<benchmark>.evalplus.sampled.jsonl` into `folder`.

    `samples` are one model's answers to `task`, and the lines are in their order. A mode without answers,
    and a benchmark whose answers are no programs, have no file: one of an earlier evaluation is removed.
    """
    problems = {problem.id: problem for problem in task.problems}
    for mode, added in PROGRAM_FILES.items():
        path = folder / f"{task.name}{added}.jsonl"
        answers = [sample for sample in samples if sample.mode == mode and task.program is not None]
        if answers:
            write_text(path, "".join(_line(task, problems[a.problem_id], a) for a in answers))
        else:
            path.unlink(missing_ok=True)


def _line(task: BenchmarkTask, problem: Problem, sample: Sample) -> str:
    assert task.program is not None
    completion = Completion(sample.completion, sample.tokens, sample.finished)
    solution = task.program(problem, completion) if sample.finished else CUT_OFF
    return json.dumps({"task_id": problem.id, "solution": solution}) + "\n"
