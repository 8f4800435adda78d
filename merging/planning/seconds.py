"""How long things take by arithmetic: operations over a device's speed, bytes over its bandwidth.

Measured is only what `merging.planning.devices` says so of; docs/planning.md defends the constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from merging.planning.devices import Device
from trainer.memory import SINGLE, ModelSize, cached_numbers_per_token

EULER = 0.5772156649
"""The longest of n exponentially spread lengths is, on average, log n + this times their mean."""

SYNC_BYTES_PER_SECOND = 5e9
"""Weights on their way to the rollout: gathered tensor by tensor, sent in float32 and loaded. Assumed."""

DISK_BYTES_PER_SECOND = 1e9
"""A checkpoint on its way to disk, a model on its way from it: one NVMe disk or a fast shared file system."""

WEIGHT_SECONDS = 1e-8
"""Per parameter and expert, for a baseline made of weights: float32 on the host's cores. Assumed."""

FORWARD, BACKWARD, BACKWARD_OF_INPUTS = 1, 2, 1
"""Forward passes that a forward pass, a backward pass, and one without gradients of weights cost."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and answers, whose lengths spread exponentially up to a limit."""

    prompt: float
    """Mean."""
    answer: float
    """Mean."""
    limit: int
    """Most tokens of an answer."""

    @property
    def squared_answer(self) -> float:
        """Mean of the square: twice the mean's, and never above mean times limit."""
        return min(2 * self.answer**2, self.answer * self.limit)

    def longest_of(self, answers: int) -> float:
        """Mean length of the longest of so many answers."""
        return min(float(self.limit), max(self.answer, self.answer * (math.log(max(answers, 1)) + EULER)))


@dataclass(frozen=True)
class Engines:
    """Rollout engines that work side by side."""

    device: Device
    count: int
    tensor_parallel: int
    sequences: int
    """Most answers that one writes at once."""
    cache_bytes: float = math.inf
    """Room for keys and values in one engine."""
    is_quantized: bool = False
    """Whether the layers' weights take one byte."""

    @property
    def bandwidth(self) -> float:
        """Bytes/s of an engine."""
        return self.device.bandwidth * self.device.bandwidth_share * self.tensor_parallel

    @property
    def flops(self) -> float:
        """FLOP/s of an engine."""
        return self.device.flops * self.device.compute_share * self.tensor_parallel


def forward_flops(model: ModelSize, sequences: float, lengths: Lengths) -> float:
    """Of one pass over so many sequences: 2 per parameter and token, and 4 per layer, channel of the query
    heads and pair of tokens, of which causal attention has half the square of a length."""
    tokens = sequences * (lengths.prompt + lengths.answer)
    squares = lengths.prompt**2 + 2 * lengths.prompt * lengths.answer + lengths.squared_answer
    return 2 * model.read * tokens + 4 * model.layers * model.queries * sequences * squares / 2


def update_flops(
    model: ModelSize, sequences: float, lengths: Lengths, recomputes: bool, is_adapter: bool = False
) -> float:
    """Forward and backward: 6 a parameter and token, 8 where activations are computed again, and 2 less where
    only an adapter is trained, whose own are too few to count."""
    passes = FORWARD + (BACKWARD_OF_INPUTS if is_adapter else BACKWARD) + FORWARD * recomputes
    return passes * forward_flops(model, sequences, lengths)


def decode_seconds(model: ModelSize, answers: int, lengths: Lengths, engines: Engines) -> float:
    """To write so many answers, shared evenly by the engines, until the last one ends.

    Every step of an engine reads its weights, and each answer being written its keys and values; it takes
    at least its operations' time. Prompts are read first.
    """
    if not answers:
        return 0.0
    own = -(-answers // engines.count)
    at_once = max(1, min(own, engines.sequences, held_at_once(model, lengths, engines)))
    steps = (own - at_once) * lengths.answer / at_once + lengths.longest_of(at_once * engines.count)
    cached = own * (lengths.prompt * lengths.answer + lengths.squared_answer / 2)
    number = engines.device.number_bytes
    read = steps * weight_bytes(model, engines) + cached * number * cached_numbers_per_token(model)
    computed = own * lengths.answer * 2 * model.read
    prompts = forward_flops(model, own, Lengths(lengths.prompt, 0.0, lengths.limit))
    moving = max(read / engines.bandwidth, computed / engines.flops)
    return moving + steps * engines.device.token_seconds + prompts / engines.flops


def held_at_once(model: ModelSize, lengths: Lengths, engines: Engines) -> int:
    """Answers whose keys and values fit into an engine's cache, on average half written."""
    one = engines.device.number_bytes * cached_numbers_per_token(model)
    room = engines.cache_bytes / (one * (lengths.prompt + lengths.answer / 2))
    return 10**9 if math.isinf(room) else max(1, int(room))


def weight_bytes(model: ModelSize, engines: Engines) -> float:
    """Weights that an engine reads in each step, from all of its devices."""
    layers = model.layers * model.layer
    return layers * (1 if engines.is_quantized else engines.device.number_bytes) + (
        engines.device.number_bytes * model.head
    )


def compute_seconds(flops: float, device: Device, devices: int) -> float:
    """On devices that share the work evenly."""
    return flops / (device.flops * device.compute_share * devices)


@dataclass(frozen=True)
class Step:
    """What one step of a training does."""

    model: ModelSize
    rollouts: int
    lengths: Lengths
    devices: int
    """That train."""
    engines: Engines | None
    """None where nothing is sampled within a step."""
    scored: Sequence[tuple[ModelSize, float]] = ()
    """Models that read rollouts, each with the share of the rollouts that it reads."""
    scoring_devices: int = 0
    """Over which their work is spread."""
    has_servers: bool = False
    """Whether each model has `scoring_devices` of its own, so that the slowest counts."""
    reads_again: bool = True
    """Whether the trainer reads the rollouts before the update, for its log-probabilities."""
    is_adapter: bool = False
    checkpoint_bytes: float = 0.0
    """Written per step, on average."""


VALIDATION = "validation"
"""The part of validations, spread over the steps that are left."""

STEP_PARTS = (
    "rollout", "scoring", "log-probabilities", "update", "weights to the rollout", "checkpoints", "other",
    VALIDATION,
)  # fmt: skip
"""Of a step, in its order."""


def step_seconds(step: Step, device: Device) -> dict[str, float]:
    """Seconds of a step by part, one after the other."""
    parts: dict[str, float] = {}
    one_pass = forward_flops(step.model, step.rollouts, step.lengths)
    updated = update_flops(step.model, step.rollouts, step.lengths, device.recomputes, step.is_adapter)
    if step.engines is not None:
        parts["rollout"] = decode_seconds(step.model, step.rollouts, step.lengths, step.engines)
    if step.scored:
        parts["scoring"] = scoring_seconds(step, device)
    if step.reads_again:
        parts["log-probabilities"] = compute_seconds(one_pass, device, step.devices)
    parts["update"] = compute_seconds(updated, device, step.devices)
    if step.engines is not None:
        parts["weights to the rollout"] = SINGLE * step.model.parameters / SYNC_BYTES_PER_SECOND
    if step.checkpoint_bytes:
        parts["checkpoints"] = step.checkpoint_bytes / DISK_BYTES_PER_SECOND
    return {**parts, "other": device.step_seconds}


def scoring_seconds(step: Step, device: Device) -> float:
    """All passes of teachers and references of a step."""
    each = [
        compute_seconds(
            forward_flops(model, share * step.rollouts, step.lengths), device, step.scoring_devices
        )
        for model, share in step.scored
    ]
    return max(each) if step.has_servers else sum(each)


def weights_seconds(parameters: int, experts: int) -> float:
    """A baseline made of weights: base and experts are read in two bytes a number, one model is written."""
    moved = 2 * parameters * (experts + 2) / DISK_BYTES_PER_SECOND
    return moved + WEIGHT_SECONDS * parameters * experts
