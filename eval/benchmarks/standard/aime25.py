"""AIME I and II of 2025: 30 problems with a final answer."""

from __future__ import annotations

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks.math_task import HubSource, open_published
from eval.benchmarks.task import BenchmarkTask

HUB = HubSource(
    path="math-ai/aime25",
    split="test",
    revision="main",
    licence="see its data set card",
    n_problems=30,
    id_field="id",
)
SOURCE = HUB.files


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else from the hub. Raises ConfigError."""
    return open_published(config, HUB)
