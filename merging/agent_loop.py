"""Scores each rollout as it ends: by its routed teacher and by the reference, in the same engine."""

from __future__ import annotations

import asyncio

import ray
import torch

from merging.names import REFERENCE
from merging.scorer_actor import ACTOR_NAME
from trainer.agent_loop import LoudAgentLoopManager, LoudAgentLoopWorker, plain


class ScoringAgentLoopWorker(LoudAgentLoopWorker):
    """Attaches `teacher_logprobs` [tokens, 2] to a rollout: teacher T, reference B.

    At lambda 1 the reference has no influence and is not scored: one pass instead of two, and B
    repeats T.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        shared = self.config.protege.scorer.kind == "shared"
        self.scorer = ray.get_actor(ACTOR_NAME) if shared else None

    async def _compute_teacher_logprobs(self, output, prompt_ids, response_ids, validate, sample_kwargs=None):
        if validate:
            return
        teacher, reward_scale = (plain(sample_kwargs[key]) for key in ("teacher", "reward_scale"))
        models = [teacher] if reward_scale == 1.0 else [teacher, REFERENCE]
        score = self._score_shared if self.scorer is not None else self._score_pool
        columns = await score(models, prompt_ids + response_ids, len(response_ids))
        output.extra_fields["teacher_logprobs"] = torch.stack([columns[0], columns[-1]], dim=-1)

    async def _score_shared(self, models: list[str], token_ids: list[int], response_tokens: int):
        rows = await self.scorer.score.remote(models, token_ids, response_tokens)
        return [torch.from_numpy(row.copy()) for row in rows]

    async def _score_pool(self, models: list[str], token_ids: list[int], response_tokens: int):
        ask = self.teacher_server_manager.compute_teacher_logprobs_single
        answers = await asyncio.gather(*[ask(sequence_ids=token_ids, routing_key=model) for model in models])
        return [logprobs.squeeze(-1) for _, logprobs in answers]


class ScoringAgentLoopManager(LoudAgentLoopManager):
    """verl's manager with the scoring worker."""

    worker_class = ScoringAgentLoopWorker
