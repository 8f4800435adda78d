"""Where a run happens, and how it uses the devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from configs.blocks.strict import PositiveInt, Strict

DeviceKind = Literal[
    "A100-40GB",
    "A100-80GB",
    "H100-80GB",
    "H200-141GB",
    "B200-180GB",
    "L40S-48GB",
    "L4-24GB",
    "RTX-4090-24GB",
]
"""GPUs whose data sheets are known; `merging.planning.devices.GPUS` holds their numbers."""

PROBE_CACHE_GIB = {"cuda": 16, "cpu": 1}


class Stall(Strict):
    """When a training that makes no step is said to be stalled, and what becomes of it then."""

    after: Annotated[float, Field(gt=1)] = 10
    """So many times the usual time of a step, which is the median of the training's steps since it was last
    started."""
    at_least_seconds: PositiveFloat = 600
    """And no earlier than this, however short the steps are."""
    first_step_seconds: PositiveFloat = 3600
    """The same while the usual time is not known: from the start to the first step, and from there to the
    second."""
    action: Literal["warn", "stop"] = "warn"
    """`warn` prints a line that names the run's stopped, busy and idle parts; `stop` ends the run with it,
    and the same command then continues from the last checkpoint."""


class Hardware(Strict):
    """Where the run happens."""

    device: Literal["cpu", "cuda"] = "cuda"
    """`cpu` runs the same trainer on logical devices."""
    gpus: PositiveInt = 1
    """Devices a node for training and rollout (data-parallel ranks on a CPU)."""
    nodes: PositiveInt = 1
    """Nodes; above 1 `ray_address` must name a running Ray cluster."""
    ray_address: str | None = None
    """Address of a running Ray cluster; by default one is started on this machine and ended with the run."""
    scorer_gpus: PositiveInt = 1
    """Devices of each server of the `pool` scorer, where `scorer.pool` does not say `tensor_parallel`."""
    rollout_gpus: Annotated[int, Field(ge=0)] = 0
    """Devices beside `gpus` that only sample, for the trainings with `training.overlap: one_step`; at 0
    rollout and training share devices."""
    rollout_memory_fraction: Annotated[float, Field(gt=0, le=0.95)] = 0.5
    """Share of a GPU's memory that vLLM may take while a training or a pool shares the device. Evaluation and
    the sampling of answers have it alone and take vLLM's own share; on a CPU the cache holds just what a step
    needs."""
    rollout_tensor_parallel: PositiveInt = 1
    """Devices that share one rollout engine."""
    rollout_sequences: PositiveInt | None = None
    """Most answers that one rollout engine writes at once; by default verl's 256, on a CPU the rollouts of a
    step, between 8 and 256."""
    rollout_quantization: Literal["none", "fp8"] = "none"
    """Number format of the rollout engines' linear layers. `fp8` needs GPUs that compute in it (Ada, Hopper
    and later). Answers are then sampled from rounded weights, which the estimator `sampled` corrects for by
    its importance weight; an expert that is built so is another expert."""
    tokens_per_device: PositiveInt = 32768
    """Most tokens in one micro-batch of the update, on one device."""
    sequence_parallel: PositiveInt = 1
    """Devices that share the tokens of each micro-batch (Ulysses), for sequences too long for one; must
    divide the devices and the attention heads."""
    probe_cache_gib: PositiveFloat | None = None
    """Most GiB that answers which are decoded together take for keys, values and distributions, beside two
    models, in `protege probe`, `reward_scale: auto` and `routing: agreement`; by default 16, on a CPU 1."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What of the training waits in main memory while the device does something else: nothing, the
    optimizer's moments (8 bytes a parameter), or weights and gradients too (16)."""
    checkpoints: Literal["full", "weights"] = "full"
    """`full` keeps weights and optimizer every `save_every` steps (12 bytes a parameter, the last two), and a
    stopped training continues there. `weights` keeps the weights alone, at the end only (4 bytes): without
    the optimizer nothing can be continued, so a stopped training starts again."""

    device_kind: DeviceKind | None = None
    """The GPU that the times of `protege plan` and the check of device memory reckon with. By default the one
    that this machine shows; where it shows none, or the run joins a cluster, memory is not checked, and where
    it shows none, times are those of an H100."""
    price_per_device_hour: PositiveFloat | None = None
    """What one device costs per hour, in a currency of yours; `protege plan` then prices every stage."""
    stall: Stall = Stall()
    """When a training that makes no step is said to be stalled."""

    @property
    def probe_cache_bytes(self) -> int:
        """`probe_cache_gib` in bytes."""
        return int((self.probe_cache_gib or PROBE_CACHE_GIB[self.device]) * 2**30)

    @model_validator(mode="after")
    def _a_cpu_has_no_device_memory(self) -> Hardware:
        if self.device == "cpu":
            if self.device_kind is not None:
                raise ValueError("device_kind names a GPU; leave it out on a CPU")
            for name in ("offload", "rollout_quantization"):
                if getattr(self, name) != "none":
                    raise ValueError(f"{name}: {getattr(self, name)} is for GPUs; leave it out on a CPU")
        return self
