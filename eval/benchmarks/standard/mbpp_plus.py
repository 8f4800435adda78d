"""MBPP+: 378 Python functions, each judged on the base and the plus inputs."""

from __future__ import annotations

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks.evalplus_release import EvalPlusRelease
from eval.benchmarks.evalplus_task import open_published
from eval.benchmarks.task import BenchmarkTask

SOURCE = EvalPlusRelease("mbpp", "MbppPlus", 378)


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else EvalPlus's file. Raises ConfigError."""
    return open_published(config, SOURCE)
