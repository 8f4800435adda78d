"""The rollout engines of a training and of the evaluation, as they are configured."""

from __future__ import annotations

from configs.schema import MergeConfig
from merging.planning.devices import Device
from merging.planning.seconds import Engines
from trainer.memory import ENGINE_BYTES, HALF, ModelSize

GPU_SEQUENCES = 256
"""vLLM's and verl's default of `max_num_seqs`."""

CPU_EVALUATION_SEQUENCES = 256
"""`eval.generation.worker.CPU_MAX_SEQUENCES`."""

EVALUATION_MEMORY_FRACTION = 0.9
"""vLLM's default share of a device, which the evaluation has to itself."""


def training_engines(config: MergeConfig, device: Device, size: ModelSize, rollouts: int) -> Engines:
    """Of a training of a model of this size with so many rollouts per step."""
    hardware = config.hardware
    shared = hardware.rollout_tensor_parallel
    count = hardware.gpus * hardware.nodes // shared
    if hardware.device == "cpu":
        return Engines(device, count, 1, hardware.rollout_sequences or max(8, min(256, rollouts)))
    return Engines(
        device,
        count,
        shared,
        hardware.rollout_sequences or GPU_SEQUENCES,
        cache_bytes(device, size, hardware.rollout_memory_fraction, shared),
        hardware.rollout_quantization == "fp8",
    )


def evaluation_engines(config: MergeConfig, device: Device, size: ModelSize) -> Engines:
    """Of the evaluation, as `eval.generation.generate.placed_on` places them: one process on a CPU."""
    hardware = config.hardware
    if hardware.device == "cpu":
        return Engines(device, 1, 1, CPU_EVALUATION_SEQUENCES)
    shared = hardware.rollout_tensor_parallel
    cache = cache_bytes(device, size, EVALUATION_MEMORY_FRACTION, shared)
    return Engines(device, max(1, hardware.gpus * hardware.nodes // shared), shared, GPU_SEQUENCES, cache)


def cache_bytes(device: Device, size: ModelSize, fraction: float, shared: int) -> float:
    """What an engine's share of its devices leaves for keys and values, at least something."""
    left = shared * (fraction * device.memory - ENGINE_BYTES) - HALF * size.parameters
    return max(left, 1.0)
