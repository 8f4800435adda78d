"""verl's task runner, importing what a job brings along (`run_ppo`'s `task_runner_class`)."""

from __future__ import annotations

import importlib

import ray
from verl.trainer.main_ppo import TaskRunnerV1

from trainer import failures

PlainTaskRunner = TaskRunnerV1.__ray_metadata__.modified_class

IMPORTS_KEY = "protege.imports"
"""Key in verl's config: modules that register things and must be loaded where the trainer is chosen."""


@ray.remote(num_cpus=1)
class TaskRunner(PlainTaskRunner):
    """Loads the job's modules, runs verl's trainer, and records what ended it."""

    def run(self, config):
        for module in config.protege.imports:
            importlib.import_module(module)
        try:
            return super().run(config)
        except Exception as error:
            failures.record(config.protege.failures_file, "trainer", error)
            raise
