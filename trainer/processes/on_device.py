"""Runs a function of ours on a device of a Ray cluster that was joined.

The command may stand on a node without one, a head or login node. What it would read models for is then done
by a task of Ray's, which has one training device to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from common.errors import ConfigError, RunFailed
from trainer.processes.failures import summary

Answer = TypeVar("Answer")


def on_device(function: Callable[..., Iterator[Answer]], *arguments: Any) -> Iterator[Answer]:
    """What the generator `function(*arguments)` yields on a device of the connected cluster, as it comes.

    The function stands at the top of a module that every node has; it, its arguments and what it yields are
    pickled. Raises its ConfigError, and RunFailed where it fails otherwise or its process ends.
    """
    import ray
    from ray.exceptions import RayError

    name = f"{function.__module__}.{function.__qualname__}"
    task: Any = ray.remote(num_cpus=1, num_gpus=1, max_retries=0)(_each)
    for reference in task.options(num_returns="streaming", name=name).remote(function, *arguments):
        try:
            answer: Any = ray.get(reference)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), ConfigError):
                raise cause from None
            raise RunFailed(f"{name} failed on the Ray cluster\n  first error: {summary(error)}") from error
        yield answer


def _each(function: Callable[..., Iterator[Answer]], *arguments: Any) -> Iterator[Answer]:
    """Ray sends to the generator that it runs, which `yield from` would hand on to any iterator."""
    for answer in function(*arguments):  # noqa: UP028
        yield answer
