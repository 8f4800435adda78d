"""Whether the run folder is free, and this machine has the devices, memory and disk space of the run."""

from __future__ import annotations

import glob
import os
import shutil
from dataclasses import replace
from pathlib import Path

import psutil

from common.errors import ConfigError
from common.locks import check_free
from common.words import gb, gib
from configs.places import registry_root
from configs.schema import MergeConfig
from configs.served import REFERENCE
from merging.checks.found import Preflight, needs_student
from merging.checks.models import named_models
from merging.exopd.lambda_schedule import EverRead, read_by_trainings
from merging.exopd.pool import widest_pool
from merging.expert_kinds.kind import Models
from merging.expert_kinds.kinds import experts_of
from merging.planning.device_memory import device_memory
from merging.planning.devices import chosen_device
from merging.planning.held import Held, parts_text
from merging.planning.memory import disk_parts, largest_trained, main_memory, rollout_shares
from routing.judged import polish_counts

GIB = 2**30

DISTRIBUTIONS_BYTES = 2 * GIB
"""Most that the scorer may send to the trainer in a step."""


def run_folder(found: Preflight) -> None:
    """Refuses a run folder that a live run holds."""
    check_free(found.run_dir)


def registry_folder(found: Preflight) -> None:
    """Refuses a registry where experts cannot be kept."""
    root = registry_root(found.config.registry)
    _refuse_unwritable(root, f"registry {root}")


def _refuse_unwritable(place: Path, name: str) -> Path:
    """The folder that is there on the way to this place; raises ConfigError where none can be made below."""
    there = place.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"{name}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{name}: {there} is not writable")
    return there


def devices(found: Preflight) -> None:
    """Refuses devices that are not there, and batches that do not divide over them as verl demands."""
    config, hardware = found.config, found.config.hardware
    devices = hardware.gpus * hardware.nodes
    batches = {"training": config.training.prompts_per_step * config.training.samples_per_prompt}
    if (polish := config.polish) is not None:
        batches["polish"] = polish.prompts_per_step * polish.samples_per_prompt
    batches |= {expert.place: expert.rollouts_per_step or 0 for expert in experts_of(config).values()}
    for place, rollouts in batches.items():
        if rollouts % devices:
            raise ConfigError(
                f"{place}: prompts_per_step * samples_per_prompt = {rollouts} is not a multiple of "
                f"the {devices} devices (hardware.gpus * hardware.nodes)"
            )
    if hardware.device == "cpu" and hardware.rollout_tensor_parallel > 1:
        raise ConfigError(
            f"hardware.rollout_tensor_parallel = {hardware.rollout_tensor_parallel}: an engine on a CPU is "
            "one process; leave it at 1"
        )
    if devices % hardware.rollout_tensor_parallel:
        raise ConfigError(
            f"hardware.rollout_tensor_parallel = {hardware.rollout_tensor_parallel} must divide the "
            f"{devices} devices (hardware.gpus * hardware.nodes)"
        )
    pool = widest_pool(config)
    if hardware.ray_address is not None:
        _joined(hardware.ray_address)
    elif pool.nodes > 1:
        raise ConfigError(
            f"scorer.pool.nodes = {pool.nodes}: hardware.ray_address must name a running Ray cluster"
        )
    elif (
        hardware.device == "cuda" and not found.is_elsewhere and visible_gpus() < hardware.gpus + pool.devices
    ):
        wanted = f"hardware.gpus = {hardware.gpus}"
        wanted += f" and {pool.devices} for the pool's servers" if pool.devices else ""
        raise ConfigError(
            f"{wanted}, and this machine shows {visible_gpus()} NVIDIA GPUs; "
            "hardware.device: cpu runs without, hardware.ray_address names a cluster"
        )


def _joined(address: str) -> None:
    """Refuses an address that cannot be joined; the cluster's devices are counted when it is joined."""
    if "://" in address:
        raise ConfigError(
            f"hardware.ray_address = {address}: Ray's client cannot be used; start the command on a node of "
            "the cluster, with its host:port"
        )


def visible_gpus() -> int:
    """NVIDIA GPUs of this machine that `CUDA_VISIBLE_DEVICES` leaves visible."""
    present = len(glob.glob("/dev/nvidia[0-9]*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, len([part for part in chosen.split(",") if part.strip()]))


@needs_student
def distributions(found: Preflight) -> None:
    """Refuses an estimator whose distributions are too large to be sent, or as large as the vocabulary."""
    estimator, training = found.config.objective.estimator, found.config.training
    vocabulary = found.fingerprints["student"].vocab_size
    if estimator.kind == "topk" and estimator.k >= vocabulary:
        raise ConfigError(
            f"objective.estimator.k = {estimator.k}: the student's vocabulary has {vocabulary} "
            "tokens; choose fewer, or `full`"
        )
    if estimator.kind == "full":
        rollouts = training.prompts_per_step * training.samples_per_prompt
        needed = 4 * rollouts * training.max_response_tokens * vocabulary
        if needed > DISTRIBUTIONS_BYTES:
            raise ConfigError(
                f"objective.estimator: full sends {rollouts} rollouts x {training.max_response_tokens} "
                f"tokens x {vocabulary} vocabulary entries, up to {gib(needed)} a step (at "
                f"most {DISTRIBUTIONS_BYTES / GIB:.0f}); use {{kind: topk, k: 64}}"
            )


@needs_student
def memory(found: Preflight) -> Preflight:
    """Refuses a run that needs more main memory (on a CPU) or device memory (on GPUs) than there is."""
    config, models = found.config, found.fingerprints
    if config.hardware.device != "cpu":
        return _device_memory(found)
    scored = scored_parameters(config, models)
    held = main_memory(config, models, scored, psutil.virtual_memory().available)
    if not held.fits:
        raise ConfigError(
            f"memory: about {gib(held.bytes)} needed (the largest model that is trained has "
            f"{largest_trained(config, models) / 1e6:.1f}M parameters, "
            f"{len(config.domains)} teachers and the reference scored), {gib(held.available or 0)} "
            f"available; in `{held.phase}`: {parts_text(held.parts)}"
        )
    return replace(found, memory_bytes=held.bytes, main_memory=held)


def _device_memory(found: Preflight) -> Preflight:
    config, models = found.config, found.fingerprints
    chosen = chosen_device(config.hardware)
    device = chosen.device
    polished = polish_counts(config, found.routed)
    held = device_memory(config, models, device.memory, chosen.has_known_memory, polished)
    problems = [_too_large(config, one, device.name) for one in held if not one.fits]
    if chosen.has_known_memory and not problems:
        problems = _small_shares(found, device.memory, device.name)
    scored, own = scored_parameters(config, models), config.hardware.ray_address is None
    here = None if found.is_elsewhere or not own else psutil.virtual_memory().total
    on_host = main_memory(config, models, scored, here)
    return found.refusing(*problems, device_memory=tuple(held), main_memory=on_host)


def _too_large(config: MergeConfig, held: Held, device: str) -> str:
    hardware = config.hardware
    advice = {
        "update": f"lower hardware.tokens_per_device ({hardware.tokens_per_device}); where a sequence is "
        f"longer, raise hardware.sequence_parallel ({hardware.sequence_parallel}); more devices share "
        "weights, gradients and moments",
        "rollout": f"lower hardware.rollout_memory_fraction ({hardware.rollout_memory_fraction:g}), or set "
        f"hardware.offload ({hardware.offload}) to optimizer or all",
        "scoring": f"lower hardware.rollout_memory_fraction ({hardware.rollout_memory_fraction:g})",
    }
    return (
        f"memory: the {held.title} holds about {gb(held.bytes)} on a device of {gb(held.available or 0)} "
        f"({device}) in its {held.phase}: {parts_text(held.parts)}; {advice[held.phase]}"
    )


def _small_shares(found: Preflight, device_bytes: int, device: str) -> list[str]:
    """Refuses a rollout's share of a device that its weights and one sequence's cache do not fit into."""
    hardware = found.config.hardware
    share = int(hardware.rollout_memory_fraction * device_bytes)
    shares = rollout_shares(found.config, found.fingerprints)
    name = max(shares, key=shares.__getitem__, default=None)
    if name is None or shares[name] <= share:
        return []
    key = "scorer_gpus" if name.startswith("server") else "rollout_tensor_parallel"
    return [
        f"hardware.rollout_memory_fraction = {hardware.rollout_memory_fraction:g}: that share of a device of "
        f"{gb(device_bytes)} ({device}) is {gb(share)}, and the engine of {name} takes {gb(shares[name])} "
        f"for its weights and one sequence; raise it, or hardware.{key} ({getattr(hardware, key)})"
    ]


@needs_student
def disk(found: Preflight) -> Preflight:
    """Refuses a run folder that cannot be written, or whose disk has too little space."""
    parts = disk_parts(found.config, found.fingerprints)
    needed = sum(parts.values())
    folder = _refuse_unwritable(found.run_dir, f"run folder {found.run_dir}")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"run folder {found.run_dir}: about {gib(needed)} of disk needed, {gib(free)} free "
            f"({parts_text(parts)})"
        )
    return replace(found, disk_bytes=needed)


# ------------------------------------------------------------------------------------------- sizes


def scored_parameters(config: MergeConfig, models: Models) -> int:
    """Most that the scorer holds in a training: sizes of the teachers, and of each model read as a reference,
    together, but for what servers hold.

    Models that a training never reads are not counted. Adapters count as adapters; they lie on the student,
    whether it is read itself or not. The sharded scorer has the weights of one model at a time, adapters
    merged into theirs: the size of the largest.
    """
    return max(_scored(config, models, read) for read in read_by_trainings(config))


def _scored(config: MergeConfig, models: Models, read: EverRead) -> int:
    experts = [expert for expert in experts_of(config).values() if expert.domain in read.teachers]
    adapters = {expert.domain: expert.adapter_parameters(models) for expert in experts}
    held = [expert for expert in experts if not expert.is_served]
    full = [expert.parameters(models) for expert in held if adapters[expert.domain] is None]
    sizes = [size for size in adapters.values() if size is not None]
    keys = {model.path: key for key, model in named_models(config).items()} | {config.student: "student"}
    names = () if REFERENCE in config.served() else read.references
    references_held = {keys[config.reference_of(name)] for name in names} | ({"student"} if sizes else set())
    references = [models.get(key, models["student"]).parameters for key in references_held]
    if config.scorer.kind == "sharded":
        return max([*(expert.parameters(models) for expert in held), *references], default=0)
    return sum(full) + sum(sizes) + sum(references)
