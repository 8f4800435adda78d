"""verl's client of the generation engines where there is one engine, and so nothing to choose."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from verl.workers.rollout.llm_server import LLMServerClient


class OneEngineClient(LLMServerClient):
    """Asks verl's load balancer for the engine once, and not in two messages for every rollout."""

    engine: tuple[str, Any] | None = None
    """Its name and handle."""

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        if self.engine is None:
            self.engine = await super()._acquire_server(request_id, **extra)
        return self.engine

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        pass


def is_plain(client: LLMServerClient) -> bool:
    """Whether it is verl's client of a synchronous training: one whose answers are not interrupted."""
    return type(client) is LLMServerClient


def direct(client: LLMServerClient, config: DictConfig) -> LLMServerClient:
    """The same client, or one that asks the only engine directly. A subclass's way to its engines is kept."""
    if not is_plain(client) or _engines(config) != 1:
        return client
    return OneEngineClient(config=client.config, load_balancer_handle=client._load_balancer)


def _engines(config: DictConfig) -> int:
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    devices = (
        rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    )
    return trainer.n_gpus_per_node * trainer.nnodes // devices
