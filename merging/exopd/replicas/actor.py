"""A replica of the shared scorer: a Ray actor on one training device, which answers turn after turn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from merging.exopd.objective import optimum
from merging.exopd.replicas.dispatch import Work
from teachers.scoring.scorer import Scored, SharedScorer


@dataclass(frozen=True)
class Usage:
    """What a replica has done since it was last asked."""

    busy_seconds: float
    """In which it read, or swapped weights."""
    swaps: int
    """Full models that were put into a module."""
    passes: dict[str, int]
    """Sequences read, by model."""


@dataclass(frozen=True)
class Place:
    """Where a replica is."""

    node: str
    """Ray's id of the node."""
    devices: tuple[str, ...]
    """Ray's ids of its devices: one, that of its bundle."""
    process: int


@ray.remote
class ScorerReplica:
    """Takes the arguments of `SharedScorer`, by name; `shared` may be a string."""

    def __init__(self, *, device: str, shared: str, **settings: Any) -> None:
        self.scorer = SharedScorer(device=own_device(device), shared=Path(shared), **settings)
        self.busy_seconds, self.told = 0.0, Usage(0.0, 0, {})

    def place(self) -> Place:
        """Answers once all models are loaded."""
        context = ray.get_runtime_context()
        devices = context.get_accelerator_ids().get("GPU", [])
        return Place(context.get_node_id(), tuple(devices), os.getpid())

    def answer(self, work: Work, sequences: list[Scored]) -> list[Any]:
        """The models that can be read without a swap then, and what is asked of each sequence: numpy arrays.

        Of one model logp_T in float32, where position t holds the log-probability of token t+1, and prompt
        positions that no loss reads, and the last one, hold 0. With a `reward_scale` a `Target`'s fields.
        """
        with self._busy():
            answers = self._answers(work, sequences)
        return [self.scorer.held(), *answers]

    def release(self) -> tuple[Usage, frozenset[str]]:
        """Gives back the device's memory until something is asked again.

        Returns what was done since the last call, and what can be read without a swap.
        """
        with self._busy():
            self.scorer.release()
        return self._usage(), self.scorer.held()

    def releases(self) -> int:
        """How often the device's memory was given back, or, on a CPU, would have been."""
        return self.scorer.releases

    def _answers(self, work: Work, sequences: Sequence[Scored]) -> list[Any]:
        if work.reward_scale is None:
            (model,) = work.models
            return [logp_T.numpy() for logp_T in self.scorer.score(model, list(sequences))]
        targets = self.scorer.targets(
            list(work.models), optimum(work.reward_scale), list(sequences), work.top_k
        )
        return [
            {name: None if value is None else value.numpy() for name, value in vars(target).items()}
            for target in targets
        ]

    @contextmanager
    def _busy(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.busy_seconds += time.monotonic() - begin

    def _usage(self) -> Usage:
        before, scorer = self.told, self.scorer
        self.told = Usage(self.busy_seconds, scorer.swaps, dict(scorer.passes))
        return Usage(
            self.told.busy_seconds - before.busy_seconds,
            self.told.swaps - before.swaps,
            {name: count - before.passes.get(name, 0) for name, count in scorer.passes.items()},
        )


def own_device(kind: str) -> str:
    """torch's name of the device that Ray gave this process, of this kind ("cpu" or "cuda").

    Ray shows a process its own devices alone, unless it was told to leave the environment as it is.
    """
    if kind == "cpu":
        return kind
    from verl.utils.ray_utils import ray_noset_visible_devices

    (device,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return f"{kind}:{device}" if ray_noset_visible_devices() else f"{kind}:0"
