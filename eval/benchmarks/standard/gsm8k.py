"""GSM8K's test set: 1319 word problems of grade school, whose answers are numbers.

Not pinned: what the hub had when it was downloaded is read. A local copy has the same fields, as has
`test.jsonl` in the authors' repository. The problems have no ids; their positions from 0 are taken.
"""

from __future__ import annotations

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks.math_task import HubSource, open_published
from eval.benchmarks.task import BenchmarkTask
from eval.grading.graders import is_number

MARK = "####"


def final_answer(solution: str) -> str:
    """The number after the last `####`, without thousands separators. Raises ValueError."""
    _steps, mark, end = solution.rpartition(MARK)
    number = end.strip().replace(",", "")
    if not mark or not is_number(number):
        raise ValueError(f"its answer must end in {MARK!r} and a number; it ends in {solution[-60:]!r}")
    return number


HUB = HubSource(
    path="openai/gsm8k",
    split="test",
    revision="main",
    licence="MIT",
    n_problems=1319,
    configuration="main",
    problem_field="question",
    final_answer=final_answer,
)
SOURCE = HUB.files


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else from the hub. Raises ConfigError."""
    return open_published(config, HUB)
