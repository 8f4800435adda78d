"""HMMT of November 2025: 30 problems with a final answer.

Not pinned: what the hub had when it was downloaded is read. One answer in the ExOPD paper's copy lacks a
backslash, so that right answers to that problem fail; whether the hub's copy has it too has not been checked.
"""

from __future__ import annotations

from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks.math_task import HubSource, open_published
from eval.benchmarks.task import BenchmarkTask

HUB = HubSource(
    path="MathArena/hmmt_nov_2025",
    split="train",
    revision="main",
    licence="CC BY-NC-SA 4.0",
    n_problems=30,
    id_field="problem_idx",
)
SOURCE = HUB.files


def open_task(config: StandardBenchmark) -> BenchmarkTask:
    """The benchmark from `config.path`, else from the hub. Raises ConfigError."""
    return open_published(config, HUB)
