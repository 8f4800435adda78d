"""Checkpoints as verl's FSDP2 workers write them, without verl."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from tests.helpers.model_copies import weights_of
from tests.helpers.paths import STUDENT


class Shard:
    """FSDP2's placement along one dimension."""

    def __init__(self, dim: int):
        self.dim = dim

    def is_shard(self) -> bool:
        return True


class Replicate:
    """FSDP2's placement of a whole copy on every rank."""

    def is_shard(self) -> bool:
        return False


class FakeDTensor:
    """One rank's part of a tensor, with the attributes of a DTensor that are read."""

    def __init__(self, local: torch.Tensor, *placements: Shard | Replicate, mesh: torch.Tensor | None = None):
        self._local_tensor = local
        self.placements = placements
        self.device_mesh = SimpleNamespace(mesh=mesh)


def write_checkpoint(checkpoints: Path, step: int, ranks: list[dict]) -> Path:
    """`global_step_N/actor/model_world_size_W_rank_R.pt` of every rank, and the tracker file."""
    actor = checkpoints / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    for rank, weights in enumerate(ranks):
        torch.save(weights, actor / f"model_world_size_{len(ranks)}_rank_{rank}.pt")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))
    return actor


def sharded(weights: dict[str, torch.Tensor], ranks: int) -> list[dict]:
    """Each tensor split along dimension 0 as FSDP2 does: equal chunks, the last ones short or empty."""
    parts: list[dict] = [{} for _ in range(ranks)]
    for name, tensor in weights.items():
        chunks = list(tensor.chunk(ranks, dim=0))
        chunks += [tensor.new_empty((0, *tensor.shape[1:]))] * (ranks - len(chunks))
        for part, chunk in zip(parts, chunks, strict=True):
            part[name] = FakeDTensor(chunk.clone(), Shard(0))
    return parts


def lora_weights(rank: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """An adapter on all linear layers of the demo student, as verl's checkpoint names its tensors."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in weights_of(STUDENT).items():
        if name.endswith("_proj.weight"):
            rows, columns = value.shape
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                key = f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.default.weight"
                weights[key] = 0.1 * torch.randn(shape, generator=generator)
    return weights
