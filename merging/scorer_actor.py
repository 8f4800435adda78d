"""The shared scorer as a Ray actor: many rollouts ask, one process answers in batches by model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import ray

from merging.objective import optimum
from teachers.scorer import Scored, SharedScorer

ACTOR_NAME = "protege-scorer"
SCORER_SETTINGS = ("base", "device", "dtype", "tokens_per_batch", "canary")
"""What `SharedScorer` reads beside the models; the other settings are the agent loop's."""


@dataclass
class _Request:
    work: tuple
    """What is asked of the sequence; requests that ask the same are answered together."""
    sequence: Scored
    answer: asyncio.Future


@ray.remote
class ScorerActor:
    """Batches what waits: while one batch is computed the next one gathers.

    Takes the arguments of `SharedScorer`, by name.
    """

    def __init__(self, **settings: Any):
        self.scorer = SharedScorer(**settings)
        self.waiting: list[_Request] = []
        self.worker: asyncio.Task | None = None

    async def ready(self) -> bool:
        """Answers once all models are loaded."""
        return True

    async def score(self, models: list[str], token_ids: list[int], response_tokens: int) -> list:
        """Log-probabilities of one rollout under each named model.

        Returns, for each model, a float32 numpy array [len(token_ids)]: position t holds the
        log-probability of token t+1; prompt positions that no loss reads, and the last one, hold 0.
        """
        return await self._ask([("score", model) for model in models], token_ids, response_tokens)

    async def target(
        self,
        models: list[str],
        reward_scale: float,
        top_k: int | None,
        token_ids: list[int],
        response_tokens: int,
    ) -> dict:
        """The objective's optimum for one rollout, as `teachers.scorer.Target` has it, in numpy arrays."""
        work = ("target", tuple(models), reward_scale, top_k)
        return (await self._ask([work], token_ids, response_tokens))[0]

    async def _ask(self, works: list[tuple], token_ids: list[int], response_tokens: int) -> list:
        loop = asyncio.get_running_loop()
        sequence = Scored(tuple(token_ids), response_tokens)
        requests = [_Request(work, sequence, loop.create_future()) for work in works]
        self.waiting.extend(requests)
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return [await request.answer for request in requests]

    async def passes(self) -> dict[str, int]:
        """Sequences scored so far, by model."""
        return dict(self.scorer.passes)

    async def _work(self) -> None:
        await asyncio.sleep(0.005)  # rollouts end in bursts: let the burst arrive
        while self.waiting:
            work = self.waiting[0].work
            batch = [request for request in self.waiting if request.work == work]
            self.waiting = [request for request in self.waiting if request.work != work]
            try:
                answers = await asyncio.to_thread(self._answer, work, [request.sequence for request in batch])
                for request, answer in zip(batch, answers, strict=True):
                    request.answer.set_result(answer)
            except Exception as error:
                for request in batch:
                    request.answer.set_exception(error)

    def _answer(self, work: tuple, sequences: list[Scored]) -> list:
        if work[0] == "score":
            return [row.numpy() for row in self.scorer.score(work[1], sequences)]
        _, models, reward_scale, top_k = work
        targets = self.scorer.targets(list(models), optimum(reward_scale), sequences, top_k)
        return [
            {name: None if value is None else value.numpy() for name, value in vars(target).items()}
            for target in targets
        ]


def start_scorer(config):
    """Starts the scorer that verl's `config` describes (`protege.scorer`); returns the actor's handle."""
    settings = config.protege.scorer
    environment = {} if settings.device == "cpu" else {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return ScorerActor.options(
        name=ACTOR_NAME, num_cpus=1, max_concurrency=100_000, runtime_env={"env_vars": environment}
    ).remote(models=dict(settings.models), **{name: settings[name] for name in SCORER_SETTINGS})
