"""Between those who ask and the replicas: a Ray actor that hands out turns and measures a step's scoring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from merging.exopd.replicas.actor import Usage
from merging.exopd.replicas.dispatch import Dispatcher, Request, Turn, Work
from teachers.scoring.scored import Scored

BURST_SECONDS = 0.005
"""Rollouts end in bursts: a turn begins so long after the first request, when the burst has arrived."""


@dataclass(frozen=True)
class _Sent:
    """What travels with a request."""

    sequence: Scored
    answer: asyncio.Future[Any]


class Broker:
    """Answers through replicas, which are handles of `ScorerReplica`.

    Log-probabilities, one number a token, pass through it; of distributions it passes on references, so that
    they go from the replica to who asked. A replica that has died ends everything that waits, and all that is
    asked later, with an error.
    """

    def __init__(self, replicas: Sequence[Any], tokens_per_batch: int) -> None:
        self.replicas = list(replicas)
        self.dispatcher: Dispatcher[_Sent] = Dispatcher(len(self.replicas), tokens_per_batch)
        self.lost: str | None = None
        """What became of a replica that has died."""
        self.running: set[asyncio.Task[None]] = set()
        self.burst: asyncio.TimerHandle | None = None
        self.pauses = False
        """While memory is given back, requests wait."""
        self.last_request = self.last_answer = 0.0

    async def score(self, models: list[str], token_ids: list[int], response_tokens: int) -> list[Any]:
        """Each model's log-probabilities of one rollout: see `ScorerReplica.answer`."""
        return await self._ask(
            [Work((model,)) for model in models], Scored(tuple(token_ids), response_tokens)
        )

    async def target(
        self,
        models: list[str],
        reward_scale: float,
        top_k: int | None,
        token_ids: list[int],
        response_tokens: int,
    ) -> list[Any]:
        """A reference to the objective's optimum for one rollout."""
        work = Work(tuple(models), reward_scale, top_k)
        return await self._ask([work], Scored(tuple(token_ids), response_tokens))

    async def release(self) -> dict[str, float]:
        """Ends a step's scoring: the devices' memory is given back once nothing is being read.

        Returns verl's metrics of the step: `scorer/exposed_seconds`, from the arrival of the step's last
        request to the last answer, `scorer/passes`, and each replica's `busy_seconds` and `swaps`. Raises
        RuntimeError for a replica that has died.
        """
        self.pauses = True
        try:
            return await self._release()
        finally:
            self.pauses = False
            self._hand_out()

    async def _release(self) -> dict[str, float]:
        if self.running:
            await asyncio.wait(self.running)
        exposed = max(0.0, self.last_answer - self.last_request)
        self.last_request = self.last_answer = 0.0
        usages: list[Usage] = []
        for number, answer in enumerate([replica.release.remote() for replica in self.replicas]):
            try:
                usage, holds = await answer
            except RayTaskError:
                raise
            except RayError as error:
                raise self._lose(number, error) from error
            self.dispatcher.finished(number, holds)
            usages.append(usage)
        return scoring_metrics(exposed, usages)

    async def _ask(self, works: list[Work], sequence: Scored) -> list[Any]:
        if self.lost is not None:
            raise RuntimeError(self.lost)
        self.last_request = time.monotonic()
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in works]
        for work, answer in zip(works, answers, strict=True):
            self.dispatcher.add(Request(work, len(sequence.token_ids), _Sent(sequence, answer)))
        if self.burst is None:
            self.burst = loop.call_later(BURST_SECONDS, self._burst_is_over)
        return await asyncio.gather(*answers)

    def _burst_is_over(self) -> None:
        self.burst = None
        self._hand_out()

    def _hand_out(self) -> None:
        for turn in () if self.pauses else self.dispatcher.turns():
            task = asyncio.create_task(self._run(turn))
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def _run(self, turn: Turn[_Sent]) -> None:
        try:
            held, *answers = await self._answer(turn)
        except RayTaskError as error:  # of the scorer: those who asked get it, and others go on
            _fail(turn.requests, error.cause)
            held = frozenset()
        except RayError as error:
            _fail(turn.requests, self._lose(turn.replica, error))
            return
        else:
            for request, answer in zip(turn.requests, answers, strict=True):
                if not request.sent.answer.done():
                    request.sent.answer.set_result(answer)
        self.last_answer = time.monotonic()
        self.dispatcher.finished(turn.replica, held)
        self._hand_out()

    async def _answer(self, turn: Turn[_Sent]) -> list[Any]:
        """What the replica holds then, and its answers, or references to them."""
        sequences = [request.sent.sequence for request in turn.requests]
        ask = self.replicas[turn.replica].answer
        if turn.work.reward_scale is None:
            return await ask.remote(turn.work, sequences)
        holds, *answers = ask.options(num_returns=1 + len(sequences)).remote(turn.work, sequences)
        return [await holds, *answers]

    def _lose(self, replica: int, error: RayError) -> RuntimeError:
        """Nothing is answered from now on; returns what everyone gets who asks."""
        self.lost = f"replica {replica} of the shared scorer died: {error}"
        _fail(self.dispatcher.drain(), RuntimeError(self.lost))
        return RuntimeError(self.lost)


def _fail(requests: Sequence[Request[_Sent]], error: Exception) -> None:
    for request in requests:
        if not request.sent.answer.done():
            request.sent.answer.set_exception(error)


def scoring_metrics(exposed_seconds: float, usages: Sequence[Usage]) -> dict[str, float]:
    """What verl logs of a step's scoring."""
    metrics = {
        "scorer/exposed_seconds": exposed_seconds,
        "scorer/passes": float(sum(sum(usage.passes.values()) for usage in usages)),
    }
    for number, usage in enumerate(usages):
        metrics[f"scorer/{number}/busy_seconds"] = usage.busy_seconds
        metrics[f"scorer/{number}/swaps"] = float(usage.swaps)
    return metrics


ScorerBroker: Any = ray.remote(Broker)
"""The actor; Ray titles its process `ray::Broker`."""
