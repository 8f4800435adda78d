"""Memory of a run's trainings and servers by part, each on its fullest device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from configs.schema import MergeConfig
from merging.expert_kinds.kind import Models
from merging.expert_kinds.kinds import experts_of
from merging.planning.held import Held
from merging.planning.memory import scored_models, scorer_replicas, size_of, student_adapter
from merging.state.polished import controls, polish_tokens
from teachers.models.fingerprint import ModelFingerprint
from teachers.scoring.sharded.memory import sharded_scorer_parts
from trainer.memory import (
    HALF,
    LOGITS_AT_ONCE,
    OFFLOADED,
    PROCESS_BYTES,
    SCORED_LOGITS_AT_ONCE,
    ModelSize,
    Parts,
    scorer_parts,
    training_phases,
    update_parts,
)
from trainer.overrides import TEACHER_BATCH_TOKENS

WAITING_HIDDEN_BYTES, SCORED_ROWS_AT_ONCE = 2**31, 2048
"""Most hidden states that the scorer keeps for whole distributions, and most positions whose logits it makes
at once: `HIDDEN_BYTES` and `ROWS_PER_CHUNK` of `teachers.scoring.scorer`."""

CHUNK_LOGIT_BYTES = 10
"""Per token and vocabulary entry of a chunk that a teacher's server reads (docs/gpu_and_cluster.md)."""

FSDP = "actor_rollout_ref.actor.fsdp_config"
DEFERS, CHECKPOINTING = (
    f"{FSDP}.use_no_sync_for_gradient_accumulation",
    "actor_rollout_ref.model.enable_gradient_checkpointing",
)
"""Settings of verl's that the user may change and memory depends on."""


def device_memory(
    config: MergeConfig,
    models: Models,
    device_bytes: int,
    known: bool,
    polished: Mapping[str, int] | None = None,
) -> list[Held]:
    """The merge, its polish, the largest expert that is built and the largest that is trained on, and a
    server of the pool, each on its fullest device.

    `known` says whether the devices have so many bytes, and do not only count as such; `polished` are the
    rows of each domain in the polish.
    """
    available = device_bytes if known else None
    held = [_merge(config, models, device_bytes, available)]
    if (polish := config.polish) is not None:
        held.append(
            _judged(
                config,
                "polish",
                models["student"],
                rollouts=polish.prompts_per_step * polish.samples_per_prompt,
                answer=polish_tokens(config, polish),
                settings=config.verl_settings(polish),
                device_bytes=device_bytes,
                available=available,
                trained=student_adapter(config, models),
            )
        )
    for alike in (
        _experts(config, models, device_bytes, available),
        _controls(config, models, device_bytes, available, polished or {}),
    ):
        held += sorted(alike, key=lambda one: one.bytes if one.phases else 10**18)[-1:]
    if config.scorer.kind == "pool":
        held.append(_server(config, models, device_bytes, available))
    return held


def _merge(config: MergeConfig, models: Models, device_bytes: int, available: int | None) -> Held:
    training = config.training
    try:
        phases = _phases(
            config,
            size_of(models["student"]),
            rollouts=training.prompts_per_step * training.samples_per_prompt,
            longest=training.max_prompt_tokens + training.max_response_tokens,
            scorer=_scorer(config, models) if scorer_replicas(config) else {},
            settings=config.verl_settings(),
            device_bytes=device_bytes,
            trained=student_adapter(config, models),
        )
        if config.training.overlap != "none" and scorer_replicas(config):
            phases["update"] |= _scorer(config, models)  # the next step's rollouts are scored meanwhile
        if config.scorer.kind == "sharded":
            phases["scoring"] = _sharded(config, models, phases["update"])
    except ValueError as error:
        return Held("merge", {}, available, str(error))
    return Held("merge", phases, available)


def _sharded(config: MergeConfig, models: Models, update: Parts) -> Parts:
    """Between rollout and update: the model that is read, beside what the trainer keeps."""
    hardware, training = config.hardware, config.training
    sizes = [size_of(model) for model in scored_models(config, models).values()]
    longest = training.max_prompt_tokens + training.max_response_tokens
    parts = sharded_scorer_parts(
        sizes,
        devices=hardware.gpus * hardware.nodes,
        tokens=max(config.scorer.tokens_per_batch, longest),
        logits_at_once=min(LOGITS_AT_ONCE, longest * max(size.vocabulary for size in sizes)),
    )
    offloaded = OFFLOADED[hardware.offload]
    names = [*(n for n in ("weights", "optimizer") if n not in offloaded), "rollout asleep", "processes"]
    return {**{name: update[name] for name in names}, **parts}


def _experts(config: MergeConfig, models: Models, device_bytes: int, available: int | None) -> Iterator[Held]:
    """Every expert that is built."""
    for expert in experts_of(config).values():
        if expert.is_built:
            yield _judged(
                config,
                f"expert {expert.domain}",
                expert.shaped_like(models)[1],
                rollouts=expert.rollouts_per_step or 0,
                answer=expert.response_tokens or config.training.max_response_tokens,
                settings=config.verl_settings(expert.block),
                device_bytes=device_bytes,
                available=available,
                trained=expert.adapter_parameters(models),
            )


def _controls(
    config: MergeConfig, models: Models, device_bytes: int, available: int | None, polished: Mapping[str, int]
) -> Iterator[Held]:
    """Every expert that is trained on, in full or as the adapter that it is, as the polish trains the
    student."""
    for control in controls(config, polished):
        expert = experts_of(config)[control.domain]
        yield _judged(
            config,
            control.stage,
            expert.shaped_like(models)[1],
            rollouts=control.prompts_per_step * control.samples_per_prompt,
            answer=control.response_tokens,
            settings=config.verl_settings(config.polish),
            device_bytes=device_bytes,
            available=available,
            trained=None if config.training.lora_rank is None else expert.adapter_parameters(models),
        )


def _judged(
    config: MergeConfig,
    title: str,
    model: ModelFingerprint,
    *,
    rollouts: int,
    answer: int,
    available: int | None,
    **training: Any,
) -> Held:
    """A training that rewards judge; `answer` is the longest in tokens."""
    longest = config.training.max_prompt_tokens + answer
    try:
        phases = _phases(config, size_of(model), rollouts=rollouts, longest=longest, scorer={}, **training)
    except ValueError as error:
        return Held(title, {}, available, str(error))
    return Held(title, phases, available)


def _phases(
    config: MergeConfig,
    size: ModelSize,
    *,
    rollouts: int,
    longest: int,
    scorer: Parts,
    settings: dict[str, Any],
    device_bytes: int,
    trained: int | None = None,
) -> dict[str, Parts]:
    """Phases of a training on a device that it shares with its rollout; lengths in tokens."""
    hardware = config.hardware
    devices = hardware.gpus * hardware.nodes
    most = -(-rollouts * longest // devices)
    tokens = max(min(hardware.tokens_per_device, most), -(-longest // hardware.sequence_parallel))
    update = update_parts(
        size,
        devices=devices,
        tokens=tokens,
        logits_at_once=min(LOGITS_AT_ONCE, tokens * size.vocabulary),
        gradient_checkpointing=bool(settings.get(CHECKPOINTING, True)),
        defers_gradient_sync=bool(settings.get(DEFERS, False)),
        trained=trained,
    )
    return training_phases(
        update,
        scorer,
        device_bytes=device_bytes,
        rollout_memory_fraction=hardware.rollout_memory_fraction,
        offload=hardware.offload,
    )


def _scorer(config: MergeConfig, models: Models) -> Parts:
    training = config.training
    longest = training.max_prompt_tokens + training.max_response_tokens
    scored = training.prompts_per_step * training.samples_per_prompt * training.max_response_tokens
    sizes = [size_of(model) for model in scored_models(config, models).values()]
    waiting = min(WAITING_HIDDEN_BYTES, 2 * HALF * max(size.hidden for size in sizes) * scored)
    return scorer_parts(
        sizes,
        tokens=max(config.scorer.tokens_per_batch, longest),
        logits_at_once=min(SCORED_LOGITS_AT_ONCE, SCORED_ROWS_AT_ONCE * sizes[0].vocabulary),
        hidden_bytes=waiting if config.objective.estimator.compares_distributions else 0,
    )


def _server(config: MergeConfig, models: Models, device_bytes: int, available: int | None) -> Held:
    """A teacher's server, which has devices of its own."""
    vocabulary = models["student"].vocab_size
    parts = {
        "server and its cache": int(config.hardware.rollout_memory_fraction * device_bytes),
        "logits of a chunk": CHUNK_LOGIT_BYTES * TEACHER_BATCH_TOKENS * vocabulary,
        "processes": PROCESS_BYTES,
    }
    return Held("teacher server", {"scoring": parts}, available)
