"""verl's agent loop for rollouts that are scored together, after the last one has ended."""

from __future__ import annotations

from typing import Any

from trainer.within.agent_loop import LoudAgentLoopManager, LoudAgentLoopWorker


class UnscoredAgentLoopWorker(LoudAgentLoopWorker):
    """Asks no teacher: `merging.exopd.sharded.trainer` attaches the scores."""

    async def _compute_teacher_logprobs(self, *arguments: Any, **named: Any) -> None:
        return


class UnscoredAgentLoopManager(LoudAgentLoopManager):
    """verl's manager with that worker."""

    worker_class = UnscoredAgentLoopWorker
