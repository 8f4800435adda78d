"""Benchmarks by name and by kind.

A new standard one is a file with `open_task` and `SOURCE`, and a line in `STANDARD`.
"""

from __future__ import annotations

from importlib import import_module

from common.remote import Remote
from configs.blocks.benchmarks import Benchmark
from eval.benchmarks.task import BenchmarkTask, self_check

__all__ = ["STANDARD", "BenchmarkTask", "open_benchmark", "self_check", "source_of"]

STANDARD: dict[str, str] = {
    "aime24": "eval.benchmarks.standard.aime24:open_task",
    "aime25": "eval.benchmarks.standard.aime25:open_task",
    "gsm8k": "eval.benchmarks.standard.gsm8k:open_task",
    "hmmt25_feb": "eval.benchmarks.standard.hmmt25_feb:open_task",
    "hmmt25_nov": "eval.benchmarks.standard.hmmt25_nov:open_task",
    "humaneval_plus": "eval.benchmarks.standard.humaneval_plus:open_task",
    "livecodebench_v6": "eval.benchmarks.standard.livecodebench_v6:open_task",
    "math500": "eval.benchmarks.standard.math500:open_task",
    "mbpp_plus": "eval.benchmarks.standard.mbpp_plus:open_task",
}
"""Published benchmarks; each target takes a StandardBenchmark and returns a BenchmarkTask."""

KINDS: dict[str, str] = {
    "math": "eval.benchmarks.math_task:open_own",
    "evalplus": "eval.benchmarks.evalplus_task:open_own",
    "graded": "eval.benchmarks.graded_task:open_own",
}
"""Kinds of the user's own benchmarks; each target takes that kind's config."""


def open_benchmark(config: Benchmark) -> BenchmarkTask:
    """The benchmark that a config declares, its problems read. Raises ConfigError."""
    target = STANDARD[config.name] if config.kind == "standard" else KINDS[config.kind]
    module, function = target.split(":")
    return getattr(import_module(module), function)(config)


def source_of(config: Benchmark) -> Remote | None:
    """What is downloaded for a benchmark; None for one that is read from a local file, or generated."""
    if config.kind != "standard" or config.path is not None:
        return None
    return import_module(STANDARD[config.name].split(":")[0]).SOURCE
