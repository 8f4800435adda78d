"""verl's agent loop, telling what went wrong (`actor_rollout_ref.rollout.agent.agent_loop_manager_class`)."""

from __future__ import annotations

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from trainer import failures

PlainAgentLoopWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
"""verl's worker without its Ray wrapper, so that it can be subclassed."""


class LoudAgentLoopWorker(PlainAgentLoopWorker):
    """Writes the first error of a rollout to the run's failures file before verl swallows it."""

    async def _run_agent_loop(self, *args, **kwargs):
        try:
            return await super()._run_agent_loop(*args, **kwargs)
        except Exception as error:
            failures.record(self.config.protege.failures_file, "rollout", error)
            raise


class LoudAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the worker class above or that of a subclass."""

    worker_class: type = LoudAgentLoopWorker

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(self.worker_class)
