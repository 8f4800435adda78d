"""Device memory of a training, by part, from the widths of the model: arithmetic, no measurement of a GPU.

For dense decoders with a gated MLP (Llama, Mistral, Qwen2, Qwen3) that compute in bfloat16 on CUDA, with
float32 weights, gradients and Adam moments sharded by FSDP2. The bytes per token of a layer and per logit of
the head are counted on a CPU; `tests/unit/trainer/test_memory.py` counts them again. docs/memory.md says
what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

SINGLE, HALF = 4, 2
"""Bytes of a number in float32 and in bfloat16."""

LOGIT_BYTES, HEAD_WEIGHT_BYTES = 12, 6
"""At the peak of the head's backward pass: per logit of a chunk, and per number of the head's weight, whose
gradient is summed in float32 while a chunk's own is there in bfloat16."""

SCORED_LOGIT_BYTES = 12
"""Per logit of a chunk in the scorer, for each model that is compared."""

LOGITS_AT_ONCE, SCORED_LOGITS_AT_ONCE = 2**27, 2**26
"""Logits of a chunk in the trainer and in the scorer: `trainer.engine.chunked_head` and
`teachers.scoring.scorer`, which import torch, have the numbers themselves; a test compares them."""

LARGEST_DIFFERENCE = 0.05
"""Of the numbers counted from a model's widths from those in its files; norms and biases are below it."""

PROCESS_BYTES = 10**9
"""Assumed for the CUDA context and libraries of each process on a device: trainer, engine, scorer."""

ASLEEP_BYTES = 2 * 10**9
"""Assumed for what vLLM keeps of a device while it sleeps, its CUDA graphs above all."""

Parts = dict[str, int]
"""Bytes on one device, by part."""

WIDTHS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size",
)  # fmt: skip
"""What `config.json` must state."""


@dataclass(frozen=True)
class ModelSize:
    """Widths of a model, in numbers."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP."""
    queries: int
    """Heads times their channels."""
    keys: int
    """The same of key heads, which are as many as value heads."""
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""

    @classmethod
    def of(cls, config: Mapping[str, Any], parameters: int | None = None) -> ModelSize:
        """From a model's `config.json`; `parameters`, those in its files, are counted from the widths if they
        are not given.

        Raises ValueError for an architecture that is not modelled: a mixture of experts, one that does not
        state its widths, and one whose widths give another number of parameters.
        """
        config = config.get("text_config", config)
        kind = config.get("model_type", "this model")
        if any("expert" in key for key in config):
            raise ValueError(f"{kind}: the memory of a mixture of experts is not modelled")
        missing = [name for name in WIDTHS if not isinstance(config.get(name), int)]
        if missing:
            raise ValueError(f"{kind}: config.json has no {missing[0]}, so its memory is not modelled")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        channels = config.get("head_dim") or hidden // heads
        size = cls(
            parameters=parameters or 0,
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            queries=heads * channels,
            keys=(config.get("num_key_value_heads") or heads) * channels,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
        if parameters is None:
            return replace(size, parameters=size.matrices)
        if abs(size.matrices - parameters) > LARGEST_DIFFERENCE * parameters:
            raise ValueError(
                f"{kind}: its files hold {parameters:,} parameters, a dense decoder of its widths "
                f"{size.matrices:,}; the memory of other architectures is not modelled"
            )
        return size

    @property
    def layer(self) -> int:
        """Numbers in the matrices of one layer."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    @property
    def head(self) -> int:
        """Numbers in the output head, and in the embedding."""
        return self.vocabulary * self.hidden

    @property
    def read(self) -> int:
        """Numbers that a token is multiplied with: all layers and the output head."""
        return self.layers * self.layer + self.head

    @property
    def matrices(self) -> int:
        """Numbers in all matrices; norms and biases are too few to matter."""
        return self.layers * self.layer + self.head * (1 if self.tied else 2)


def kept_bytes_per_token(model: ModelSize, gradient_checkpointing: bool) -> int:
    """Bytes that one layer keeps of each token from its forward to its backward pass."""
    if gradient_checkpointing:
        return HALF * model.hidden
    return 16 * model.hidden + 12 * model.queries + 10 * model.keys + 8 * model.intermediate


def working_bytes_per_token(model: ModelSize) -> int:
    """Bytes per token of one layer's second forward pass and its backward pass, beside what is kept."""
    return 20 * model.hidden + 12 * model.queries + 10 * model.keys + 10 * model.intermediate


def reading_bytes_per_token(model: ModelSize) -> int:
    """Bytes per token of a forward pass without gradients, at most."""
    return 8 * model.hidden + 2 * model.queries + 6 * model.intermediate


def cached_numbers_per_token(model: ModelSize) -> int:
    """Keys and values of one token in all layers, in the rollout's cache."""
    return 2 * model.layers * model.keys


def update_parts(
    model: ModelSize,
    *,
    devices: int,
    tokens: int,
    logits_at_once: int = LOGITS_AT_ONCE,
    gradient_checkpointing: bool = True,
    defers_gradient_sync: bool = False,
    trained: int | None = None,
) -> Parts:
    """The update, of `tokens` in a micro-batch, sharded over `devices`.

    `defers_gradient_sync` is verl's `use_no_sync_for_gradient_accumulation`, which its configuration has off:
    with it every device holds the gradients of the whole model while micro-batches accumulate; without it,
    beside its own part, those of the two units that are being exchanged. `trained` are the parameters of an
    adapter, if only that is trained.
    """
    own = model.parameters if trained is None else trained
    largest = max(model.layer, model.head)
    return {
        "weights": SINGLE * model.parameters // devices,
        "optimizer": 2 * SINGLE * own // devices,
        "gradients": SINGLE * own // devices
        + SINGLE * (own if defers_gradient_sync else min(own, 2 * largest)),
        "gathered weights": HALF * ((1 if model.tied else 2) * model.head + 2 * model.layer),
        "activations": tokens
        * (
            model.layers * kept_bytes_per_token(model, gradient_checkpointing)
            + working_bytes_per_token(model) * gradient_checkpointing
        ),
        "logits": LOGIT_BYTES * logits_at_once + HEAD_WEIGHT_BYTES * model.head * (trained is None),
    }


def scorer_parts(
    models: list[ModelSize], *, tokens: int, logits_at_once: int, hidden_bytes: int = 0
) -> Parts:
    """The shared scorer on its device: one module for each architecture and size among `models`.

    `hidden_bytes` are those of hidden states that wait while models take turns (`full` and `topk`).
    """
    modules = set(models)
    return {
        "scorer": sum(HALF * model.parameters for model in modules),
        "scoring": tokens * max(reading_bytes_per_token(model) for model in modules)
        + SCORED_LOGIT_BYTES * logits_at_once * (2 if hidden_bytes else 1)
        + hidden_bytes,
    }


def training_phases(
    update: Parts,
    scorer: Parts,
    *,
    device_bytes: int,
    rollout_memory_fraction: float,
    offload: str = "none",
) -> dict[str, Parts]:
    """What is on a device that the shared scorer shares with training and rollout, by phase.

    In the rollout vLLM has its share of the device, cache included, and the trainer holds of weights and
    moments what `offload` (as in `hardware.offload`) leaves there; in the update vLLM sleeps, the scorer
    has given its memory back, and all that was offloaded is there again. `scorer` is empty where none is on
    the device.
    """
    kept = {name: update[name] for name in ("weights", "optimizer") if name not in OFFLOADED[offload]}
    processes = {"processes": PROCESS_BYTES * (3 if scorer else 2)}
    share = {"rollout and its cache": int(rollout_memory_fraction * device_bytes)}
    return {
        "rollout": {**kept, **share, **scorer, **processes},
        "update": {**update, "rollout asleep": ASLEEP_BYTES, **processes},
    }


OFFLOADED = {"none": (), "optimizer": ("optimizer",), "all": ("weights", "optimizer")}
"""What is not on the device during the rollout, by `hardware.offload`; gradients are not there anyway."""


def rollout_bytes(model: ModelSize, *, tensor_parallel: int, longest: int, quantized: bool = False) -> int:
    """Least that one device's share of a rollout engine takes: weights, the cache of one longest sequence,
    and what vLLM needs besides (`ENGINE_BYTES`)."""
    layers, rest = model.layers * model.layer, model.parameters - model.layers * model.layer
    weights = layers * (1 if quantized else HALF) + HALF * rest
    cache = HALF * cached_numbers_per_token(model) * longest
    return (weights + cache) // tensor_parallel + ENGINE_BYTES


ENGINE_BYTES = 2 * 10**9
"""Assumed for vLLM's activations, workspaces and CUDA graphs."""


def peak_phase(phases: Mapping[str, Parts]) -> str:
    """The phase that takes most."""
    return max(phases, key=lambda name: sum(phases[name].values()))
