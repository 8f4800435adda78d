"""The shared scorer as those who ask see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    import numpy as np

BROKER_NAME = "protege-scorer"
"""Ray's name of the broker's actor."""


class Replicas:
    """All replicas of the running shared scorer; any process of the training may ask."""

    def __init__(self, broker: Any) -> None:
        """`broker` is the handle of a `ScorerBroker`; `connect` finds the training's."""
        self.broker = broker

    @classmethod
    def connect(cls) -> Replicas:
        """The scorer of this training; raises ValueError where none runs."""
        return cls(ray.get_actor(BROKER_NAME))

    async def score(self, models: list[str], token_ids: list[int], response_tokens: int) -> list[np.ndarray]:
        """Log-probabilities of one rollout under each named model.

        Returns, for each model, logp_T in float32: position t holds the log-probability of
        token t+1; prompt positions that no loss reads, and the last one, hold 0.
        """
        return await self.broker.score.remote(models, token_ids, response_tokens)

    async def target(
        self,
        models: list[str],
        reward_scale: float,
        top_k: int | None,
        token_ids: list[int],
        response_tokens: int,
    ) -> dict[str, np.ndarray | None]:
        """The objective's optimum for one rollout, a `Target`'s fields as numpy arrays."""
        asked = self.broker.target.remote(models, reward_scale, top_k, token_ids, response_tokens)
        (answer,) = await asked
        return await answer
