"""Who reads the log-probabilities of teachers and reference, as declared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field

from configs.blocks.hardware import Hardware
from configs.blocks.strict import PositiveInt, Strict
from configs.served import REFERENCE, served_place


class Servers(Strict):
    """The servers of one model in the pool: `replicas * tensor_parallel` devices."""

    replicas: PositiveInt = 1
    """Servers that hold this model and share its rollouts."""
    tensor_parallel: PositiveInt | None = None
    """Devices that share each of them; by default as many as `default` says, else
    `hardware.scorer_gpus`. Must divide the model's attention heads."""


class Pool(Strict):
    """Devices of the `pool` scorer, beside those of the training."""

    default: Servers = Servers()
    """Servers of every model that `models` does not name."""
    models: dict[str, Servers] = Field({})
    """Servers of single models, by the domain whose teacher it is, or `reference` (each of them, where there
    are several)."""
    nodes: PositiveInt = 1
    """Nodes over which the pool's devices are spread evenly. A server stays on one node, unless its
    `tensor_parallel` takes whole nodes."""


class Scorer(Strict):
    """Who reads teacher's and reference's log-probabilities: two passes a rollout, one engine."""

    kind: Literal["shared", "pool", "sharded"] = "shared"
    """`shared`: replicas on the training's own devices, each of which reads the reference and every teacher;
    `pool`: verl's own servers, one vLLM engine (and one GPU or more) for each; `sharded`: for models too
    large for one device, all training devices together, between rollout and update, one model at a time with
    a share of its weights on each."""
    replicas: PositiveInt | None = None
    """Processes of the shared scorer. By default one on each training device; on a CPU one alone, since
    further ones share the same cores. On GPUs there are never more than training devices."""
    tokens_per_batch: PositiveInt = 16384
    """Most tokens that a replica of the shared scorer, or a device of the sharded one, runs through a model
    at once. The servers of `pool` cut what they read themselves; there it bounds what a start's distance and
    the router `agreement` read."""
    canary: bool = True
    """The shared and the sharded scorer read 16 fixed tokens with each model at first and after every swap of
    weights; a difference ends the run. Refused as false with `pool`, which swaps no weights."""
    pool: Pool = Pool(models={})
    """How many devices each model has in `pool`; refused with the others."""

    def check_read(self, reads_elsewhere: bool) -> None:
        """Raises ValueError for what is set and this kind does not read.

        `reads_elsewhere`: something beside the training (a start's distance, the router `agreement`) reads
        models, in batches of `tokens_per_batch` with every kind.
        """
        unread = {"pool"} if self.kind != "pool" else {"canary"}
        if self.kind == "pool" and not reads_elsewhere:
            unread.add("tokens_per_batch")
        for name in sorted(unread):
            if getattr(self, name) != getattr(type(self)(), name):
                raise ValueError(f"scorer.{name}: scorer.kind: {self.kind} does not read it; leave it out")

    def check_models(self, domains: Sequence[str], served: Collection[str]) -> None:
        """Raises ValueError for a pool without a model, and for servers of a model that it does not hold.

        `served` are those of the domains, and `reference`, whose model another server reads.
        """
        if self.kind == "sharded" and served:
            raise ValueError(
                "scorer.kind: sharded reads every model on the training's own devices, and "
                f"{served_place(next(iter(served)))} is served; use shared or pool"
            )
        if self.kind != "pool":
            return
        names = [*domains, REFERENCE]
        if all(name in served for name in names):
            raise ValueError(
                "scorer.kind: pool has no model to hold, since every teacher and the reference are served; "
                "use shared"
            )
        for name in self.pool.models:
            if name not in names:
                raise ValueError(
                    f"scorer.pool.models: {name!r} is neither a domain nor the reference; valid: "
                    f"{', '.join(names)}"
                )
            if name in served:
                raise ValueError(
                    f"scorer.pool.models.{name}: a server of its own reads this model; leave it out"
                )

    def replicas_on(self, hardware: Hardware) -> int:
        """How many processes the shared scorer has."""
        if self.replicas is not None:
            return self.replicas
        return 1 if hardware.device == "cpu" else hardware.gpus * hardware.nodes

    def check_replicas(self, hardware: Hardware) -> None:
        """Raises ValueError for replicas, and for devices of servers, of a scorer that has none, and for more
        replicas than have a device."""
        devices = hardware.gpus * hardware.nodes
        if self.replicas is not None and self.kind != "shared":
            raise ValueError(
                f"scorer.replicas: {self.replicas} counts processes of the shared scorer, and scorer.kind: "
                f"{self.kind} starts none; leave it out, or use scorer.kind: shared"
            )
        if hardware.scorer_gpus > 1 and self.kind != "pool":
            raise ValueError(
                f"hardware.scorer_gpus: {hardware.scorer_gpus} are devices of each server of the pool, and "
                f"scorer.kind: {self.kind} starts none; leave it out, or use scorer.kind: pool"
            )
        if hardware.device != "cpu" and self.replicas_on(hardware) > devices:
            raise ValueError(
                f"scorer.replicas: {self.replicas} are more than the {devices} training devices "
                f"(hardware.gpus * hardware.nodes), of which each has room for one; valid: 1 to {devices}"
            )
