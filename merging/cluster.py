"""Ray of a run: started when the first stage needs it, ended before the evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from configs.load import ConfigError
from merging.progress import say

if TYPE_CHECKING:
    from merging.run_folder import RunFolder


class Cluster:
    """Ray, started when the first stage needs it and kept until the last one that does."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.context: AbstractContextManager | None = None
        self.cluster = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __call__(self):
        if self.cluster is None:
            from merging.exopd import logical_gpus
            from trainer.ray_cluster import ray_cluster

            config = self.folder.config
            self.context = ray_cluster(
                config.hardware,
                self.folder.path / "verl_metrics",
                logical_gpus(config),
                say,
                config.tracking,
            )
            self.cluster = self.context.__enter__()
        return self.cluster

    def close(self) -> None:
        """Ends Ray and every process that it started."""
        if self.context is not None:
            context, self.context, self.cluster = self.context, None, None
            context.__exit__(None, None, None)


class NoCluster(Cluster):
    """For commands that train nothing: what is missing is refused."""

    def __init__(self):
        pass

    def __call__(self):
        raise ConfigError("an expert of this run is not built; `protege merge` builds it")

    def close(self) -> None:
        pass
