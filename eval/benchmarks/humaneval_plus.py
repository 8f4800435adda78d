"""HumanEval+: 164 Python functions, each judged on the base and the plus inputs.

The ceiling is 163 of 164: EvalPlus 0.3.1 counts no test of HumanEval/32 (`find_zero`) as run and so fails
every solution of it, the canonical one included.
"""

from __future__ import annotations

from configs.benchmarks import StandardBenchmark
from eval.benchmarks.evalplus_task import open_published
from eval.benchmarks.task import BenchmarkTask


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else by EvalPlus's download. Raises ConfigError."""
    return open_published(config, dataset="humaneval", release="HumanEvalPlus", n_problems=164)
