"""Whether models and devices divide as parallel training and sampling demand, and checkpoints suffice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.errors import ConfigError
from common.models import resolve_model
from merging.checks.found import Preflight, needs_student
from merging.checks.machine import visible_gpus
from merging.exopd.names import references
from merging.exopd.pool import widest_pool
from merging.expert_kinds.kinds import experts_of
from merging.state.polished import polish_tokens
from teachers.models.files import text_settings
from trainer.overlap import overlap_settings


def sequence_parallel(found: Preflight) -> None:
    """Refuses a `hardware.sequence_parallel` that does not divide the devices."""
    hardware = found.config.hardware
    devices, shared = hardware.gpus * hardware.nodes, hardware.sequence_parallel
    if devices % shared:
        raise ConfigError(
            f"hardware.sequence_parallel = {shared} must divide the {devices} devices "
            "(hardware.gpus * hardware.nodes)"
        )


def token_budget(found: Preflight) -> None:
    """Refuses micro-batches that are too small for the longest sequence of a training."""
    hardware, training = found.config.hardware, found.config.training
    answers = {"training": training.max_response_tokens}
    if (polish := found.config.polish) is not None:
        answers["polish"] = polish_tokens(found.config, polish)
    for expert in experts_of(found.config).values():
        if expert.is_built:
            answers[expert.place] = expert.response_tokens or training.max_response_tokens
    budget = hardware.tokens_per_device * hardware.sequence_parallel
    # of equally long ones, the merge is named: its lengths are the others' defaults
    place = max(answers, key=lambda name: answers[name])
    longest = training.max_prompt_tokens + answers[place]
    if longest > budget:
        shared = f" * sequence_parallel {hardware.sequence_parallel}" * (hardware.sequence_parallel > 1)
        raise ConfigError(
            f"hardware.tokens_per_device = {hardware.tokens_per_device}{shared}: a sequence of {place} may "
            f"have {longest} tokens (max_prompt_tokens {training.max_prompt_tokens} + max_response_tokens "
            f"{answers[place]}), and verl splits none over micro-batches; give at least "
            f"{-(-longest // hardware.sequence_parallel)}, or smaller lengths"
        )


def continued_checkpoints(found: Preflight) -> None:
    """Refuses checkpoints of weights alone where a training may have to go on from one."""
    config = found.config
    if config.hardware.checkpoints == "weights" and config.objective.alarms.action == "back_off":
        raise ConfigError(
            "hardware.checkpoints: weights keeps no optimizer, and objective.alarms.action: back_off goes on "
            "from the last checkpoint; use `full`, or another action (warn, stop)"
        )


def overlap(found: Preflight) -> None:
    """Refuses devices and settings with which rollouts cannot be one step ahead."""
    config, hardware = found.config, found.config.hardware
    if config.training.overlap == "none":
        if hardware.rollout_gpus:
            raise ConfigError(
                f"hardware.rollout_gpus = {hardware.rollout_gpus}: devices that only sample are for "
                "training.overlap: one_step; set that, or leave them out"
            )
        return
    if config.scorer.kind == "sharded":
        raise ConfigError(
            "training.overlap: one_step and scorer.kind: sharded: its scoring takes all training devices "
            "between rollout and update; use scorer.kind: shared, or training.overlap: none"
        )
    if hardware.device == "cuda" and not hardware.rollout_gpus:
        raise ConfigError(
            "training.overlap: one_step needs devices on which to sample while the others update: set "
            "hardware.rollout_gpus (and lower hardware.gpus by as many), or training.overlap: none"
        )
    if hardware.rollout_gpus and hardware.ray_address is not None:
        raise ConfigError(
            "hardware.rollout_gpus is for one machine, where the run starts Ray itself; leave out "
            "hardware.ray_address, or use training.overlap: none"
        )
    if hardware.rollout_gpus % hardware.rollout_tensor_parallel:
        raise ConfigError(
            f"hardware.rollout_tensor_parallel = {hardware.rollout_tensor_parallel} must divide "
            f"hardware.rollout_gpus = {hardware.rollout_gpus}"
        )
    wanted = hardware.gpus + hardware.rollout_gpus
    if hardware.device == "cuda" and not found.is_elsewhere and visible_gpus() < wanted:
        raise ConfigError(
            f"hardware.gpus + hardware.rollout_gpus = {wanted}, and this machine shows {visible_gpus()} "
            "NVIDIA GPUs; with training.overlap: none rollout and training share devices"
        )
    if own := overlap_settings(hardware).keys() & config.verl_settings().keys():
        raise ConfigError(
            f"verl: {min(own)} is set by training.overlap: one_step; leave it out, or use "
            "training.overlap: none"
        )


@needs_student
def attention_heads(found: Preflight) -> None:
    """Refuses devices over which the attention heads of a model that is trained do not divide."""
    hardware, models = found.config.hardware, found.fingerprints
    counts = {"hardware.sequence_parallel": hardware.sequence_parallel}
    if hardware.device != "cpu":  # there an engine is one process, see `merging.checks.machine.devices`
        counts["hardware.rollout_tensor_parallel"] = hardware.rollout_tensor_parallel
    built = [expert for expert in experts_of(found.config).values() if expert.is_built]
    folders = {model.path: place for place, model in (expert.shaped_like(models) for expert in built)}
    folders[models["student"].path] = "student"
    wrong = [
        f"{key} = {devices}: {problem} ({place}: {folder})"
        for folder, place in folders.items()
        for key, devices in counts.items()
        for problem in _undivided(Path(folder), devices)
    ]
    wrong += _pool_heads(found)
    if wrong:
        raise ConfigError(*wrong)


def _pool_heads(found: Preflight) -> Iterator[str]:
    """Servers of the pool over whose devices their model's attention heads do not divide."""
    config, models = found.config, found.fingerprints
    experts, paths = experts_of(config), references(config)[1]
    try:
        servers = widest_pool(config).servers
    except ConfigError:
        return  # `devices` has refused it
    for name, own in servers.items():
        key = f"scorer.pool: tensor_parallel = {own.tensor_parallel} of {name}"
        if config.hardware.device == "cpu" and own.tensor_parallel > 1:
            yield f"{key}: an engine on a CPU is one process; leave it at 1"
            continue
        folder = experts[name].shaped_like(models)[1].path if name in experts else paths[name]
        for problem in _undivided(resolve_model(folder), own.tensor_parallel):
            yield f"{key}: {problem} ({folder})"


def _undivided(folder: Path, devices: int) -> Iterator[str]:
    """Which heads the devices cannot share: each takes as many, and key heads may be repeated."""
    config = text_settings(folder)
    heads = config.get("num_attention_heads")
    if heads is None:
        return
    key_heads = config.get("num_key_value_heads") or heads
    if heads % devices:
        yield f"must divide the {heads} attention heads"
    elif key_heads % devices and devices % key_heads:
        yield f"must divide the {key_heads} key and value heads, or be a multiple of them"
