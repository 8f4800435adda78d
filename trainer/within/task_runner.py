"""verl's trainers in a process of Ray's, which has their imports: the command that launches them has none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import ray

from trainer.processes import failures


class _Runner:
    """Runs a trainer of verl's, and records what ended it."""

    def run(self, config: Any) -> None:
        """Trains to the end, from the last checkpoint where there is one."""
        os.environ.update(config.protege.environment)
        try:
            self.train(config)
        except Exception as error:
            failures.record(config.protege.failures_file, "trainer", error)
            raise
        finally:
            self._free_devices()

    def train(self, config: Any) -> None:
        raise NotImplementedError

    def placement_groups(self) -> Iterable[Any]:
        """Of all devices that the trainer has asked for."""
        raise NotImplementedError

    def _free_devices(self) -> None:
        """Gives the devices back: Ray keeps an actor's placement groups until the whole job ends, and
        the next stage of this run is the same job."""
        for group in self.placement_groups():
            ray.util.remove_placement_group(group)


@ray.remote(num_cpus=1)
class TaskRunner(_Runner):
    """verl's `main_ppo`, importing what a job brings along."""

    runner: Any = None

    def train(self, config: Any) -> None:
        """As verl's own `main` does it, with its runner as a plain object. The modules that are imported
        register things, here where the trainer is chosen."""
        for module in config.protege.imports:
            importlib.import_module(module)
        from verl.trainer.main_ppo import TaskRunnerV1

        check(config)
        self.runner = TaskRunnerV1.__ray_metadata__.modified_class()  # pyright: ignore[reportAttributeAccessIssue]
        self.runner.run(config)

    def placement_groups(self) -> Iterable[Any]:
        trainer = getattr(self.runner, "trainer", None)
        manager = getattr(trainer, "resource_pool_manager", None)
        pools = [*manager.resource_pool_dict.values()] if manager is not None else []
        engines = getattr(trainer, "standalone_server_manager", None)
        pools += [replica.resource_pool for replica in engines.get_replicas()] if engines is not None else []
        return [group for pool in pools for group in pool.pgs or ()]


@ray.remote(num_cpus=1)
class SftRunner(_Runner):
    """verl's SFT trainer."""

    trainer: Any = None

    def train(self, config: Any) -> None:
        from trainer.within.sft_trainer import FewCpusTrainer

        self.trainer = FewCpusTrainer(config)
        self.trainer.fit()

    def placement_groups(self) -> Iterable[Any]:
        pool = getattr(self.trainer, "resource_pool", None)
        return (pool.pgs or ()) if pool is not None else ()


def check(config: Any) -> None:
    """Raises an error for a configuration that verl refuses, and where the CPU's platform is missing."""
    from verl.plugin.platform import PlatformRegistry
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    # verl reports a plug-in that fails to load at debug level only, and goes on with another device
    if config.trainer.device == "cpu" and "cpu" not in PlatformRegistry.registered_names():
        raise RuntimeError("verl did not load the plug-in `protege_cpu`; `protege doctor` tells why")
    with redirect_stdout(StringIO()):  # it prints that all is well
        validate_config(
            config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
        )
