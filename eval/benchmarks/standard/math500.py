"""MATH-500: 500 problems of MATH's test set (the ones held out in PRM800K), with a final answer.

Not pinned: what the hub had when it was downloaded is read.
"""

from __future__ import annotations

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks.math_task import HubSource, open_published
from eval.benchmarks.task import BenchmarkTask

HUB = HubSource(
    path="HuggingFaceH4/MATH-500",
    split="test",
    revision="main",
    licence="none stated on its card; PRM800K, its source, is MIT",
    n_problems=500,
    id_field="unique_id",
)
SOURCE = HUB.files


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else from the hub. Raises ConfigError."""
    return open_published(config, HUB)
