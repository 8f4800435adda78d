"""verl's task runner, importing what a job brings along (`run_ppo`'s `task_runner_class`)."""

from __future__ import annotations

import importlib
import os
from typing import Any

import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1

from trainer.processes import failures

PlainTaskRunner = TaskRunnerV1.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]
"""verl's runner without its Ray wrapper, to which Ray declares no way."""

IMPORTS_KEY = "protege.imports"
"""Key in verl's config: modules that register things and must be loaded where the trainer is chosen."""


@ray.remote(num_cpus=1)
class TaskRunner(PlainTaskRunner):
    """Loads the job's modules, runs verl's trainer, and records what ended it."""

    def run(self, config: DictConfig) -> Any:
        os.environ.update(config.protege.environment)
        for module in config.protege.imports:
            importlib.import_module(module)
        try:
            return super().run(config)
        except Exception as error:
            failures.record(config.protege.failures_file, "trainer", error)
            raise
        finally:
            self._free_devices()

    def _free_devices(self) -> None:
        """Gives the devices back: Ray keeps an actor's placement groups until the whole job ends, and
        the next stage of this run is the same job."""
        manager = getattr(self.trainer, "resource_pool_manager", None)
        pools = [*manager.resource_pool_dict.values()] if manager is not None else []
        engines = getattr(self.trainer, "standalone_server_manager", None)
        pools += [replica.resource_pool for replica in engines.get_replicas()] if engines is not None else []
        for pool in pools:
            for group in pool.pgs or ():
                ray.util.remove_placement_group(group)
