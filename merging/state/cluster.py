"""Ray of a run: started when the first stage needs it, ended before the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common.errors import ConfigError
from common.progress import say

if TYPE_CHECKING:
    from configs.schema import MergeConfig
    from trainer.processes.ray_cluster import RayCluster


OnDevice = Callable[..., "Iterator[Any]"]
"""Runs a generator function, given with its arguments, where there is a training device: `here`, or as
`Cluster.on_device` does."""


def here(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """What `function(*arguments)` yields, in this process."""
    return function(*arguments)


class Cluster:
    """Ray, started when the first stage needs it and kept until the last one that does."""

    def __init__(self, config: MergeConfig, path: Path) -> None:
        """`path` is the run's folder."""
        self.config, self.path = config, path
        self.context: AbstractContextManager[RayCluster] | None = None
        self.cluster: RayCluster | None = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: Any) -> None:
        self._end(*error)

    def __call__(self) -> RayCluster:
        if self.cluster is None:
            from merging.exopd.job import logical_gpus
            from merging.exopd.pool import widest_pool
            from trainer.processes.ray_cluster import ray_cluster

            self.context = ray_cluster(
                self.config.hardware,
                self.path / "verl_metrics",
                logical_gpus(self.config),
                say,
                self.config.tracking,
                max(1, widest_pool(self.config).nodes),
            )
            self.cluster = self.context.__enter__()
        return self.cluster

    def on_device(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What `function(*arguments)` yields: run in this process, or on a device of a joined cluster.

        Raises what `trainer.processes.on_device` raises.
        """
        if self.config.hardware.ray_address is None:
            return here(function, *arguments)
        from trainer.processes.on_device import on_device

        self()
        return on_device(function, *arguments)

    def close(self) -> None:
        """Ends Ray and every process that it started."""
        self._end(None, None, None)

    def _end(self, *error: Any) -> None:
        """`error` is what the run ends with, as `__exit__` gets it."""
        if self.context is not None:
            context, self.context, self.cluster = self.context, None, None
            context.__exit__(*error)


class NoCluster(Cluster):
    """For commands that train nothing: what is missing is refused."""

    def __init__(self) -> None:
        pass

    def __call__(self) -> NoReturn:
        raise ConfigError("an expert of this run is not built; `protege merge` builds it")

    def close(self) -> None:
        pass
