"""MBPP+: 378 Python functions, each judged on the base and the plus inputs."""

from __future__ import annotations

from configs.benchmarks import StandardBenchmark
from eval.benchmarks.evalplus_task import open_published
from eval.benchmarks.task import BenchmarkTask


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else by EvalPlus's download. Raises ConfigError."""
    return open_published(config, dataset="mbpp", release="MbppPlus", n_problems=378)
