"""HumanEval+: 164 Python functions, each judged on the base and the plus inputs.

The ceiling is 163 of 164: EvalPlus 0.3.1 counts no test of HumanEval/32 (`find_zero`) as run and so fails
every solution of it, the canonical one included.
"""

from __future__ import annotations

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks.evalplus_release import EvalPlusRelease
from eval.benchmarks.evalplus_task import open_published
from eval.benchmarks.task import BenchmarkTask

SOURCE = EvalPlusRelease("humaneval", "HumanEvalPlus", 164)


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else EvalPlus's file. Raises ConfigError."""
    return open_published(config, SOURCE)
