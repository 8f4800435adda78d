"""Memory of a run by part, from the models' widths: in main memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.schema import MergeConfig
from configs.served import REFERENCE
from merging.checks.models import named_models
from merging.exopd.names import references
from merging.exopd.pool import widest_pool
from merging.expert_kinds.kind import Models
from merging.expert_kinds.kinds import experts_of
from merging.planning.held import Held
from teachers.models.files import read_json
from teachers.models.fingerprint import ModelFingerprint, is_tied
from trainer.memory import (
    HALF,
    SINGLE,
    ModelSize,
    Parts,
    rollout_bytes,
)

GIB = 2**30

CPU_PROCESSES_BYTES = 4 * GIB
"""Ray, trainer and vLLM processes on a CPU before any weights; a GRPO run of a 0.1M-parameter model
peaked at 5.7 GiB over 24 processes, shared pages counted in each."""

HOST_PROCESS_BYTES = 4 * 10**9
"""Assumed for what each trainer, engine and scorer process of a GPU keeps in main memory."""

ROLLOUT_TOKEN_BYTES = 64
"""Per token of a step on its way to the trainer: ids, masks, positions, log-probabilities."""

CHECKPOINT_BYTES = 12
"""Bytes a parameter of a checkpoint: float32 weights and two Adam moments."""

WEIGHTS_CHECKPOINT_BYTES = 4
"""Bytes a parameter of a checkpoint that holds weights alone; one is made, at the end."""

OFFLOADED_BYTES = {"none": 0, "optimizer": 8, "all": 16}
"""Bytes a parameter that wait in main memory, by `hardware.offload`."""


def scorer_replicas(config: MergeConfig) -> int:
    """Processes of the shared scorer, each on a training device of its own."""
    return config.scorer.replicas_on(config.hardware) if config.scorer.kind == "shared" else 0


def size_of(model: ModelFingerprint) -> ModelSize:
    """Widths of a model; raises ValueError where they are not modelled."""
    return ModelSize.of(read_json(Path(model.path) / "config.json"), model.parameters)


def scored_models(config: MergeConfig, models: Models) -> dict[str, ModelFingerprint]:
    """Every full model that the scorer reads, by name; an adapter is read on the student. What servers of the
    user's hold is not among them."""
    read: dict[str, ModelFingerprint] = {}
    held = {name: expert for name, expert in experts_of(config).items() if not expert.is_served}
    for name, expert in held.items():
        own = expert.shaped_like(models)[1]
        read[name] = own if expert.adapter_parameters(models) is None else models["student"]
    keys = {model.path: key for key, model in named_models(config).items()} | {config.student: "student"}
    for name in () if REFERENCE in config.served() else config.domains:
        key = keys[config.reference_of(name)]
        read[f"reference of {name}"] = models.get(key, models["student"])
    return read


def _pool_servers(config: MergeConfig, models: Models) -> Iterator[tuple[str, ModelFingerprint, int]]:
    """Name, model and tensor-parallel width of each of the pool's models."""
    scored, names = scored_models(config, models), references(config)[0]
    of_references = {names[domain]: f"reference of {domain}" for domain in config.domains}
    for name, own in widest_pool(config).servers.items():
        model = scored.get(name) or scored.get(of_references.get(name, ""))
        if model is not None:
            yield name, model, own.tensor_parallel


def rollout_shares(config: MergeConfig, models: Models) -> dict[str, int]:
    """Least bytes that each rollout engine and server of the pool takes of a device, by what it is of.

    Models that are not modelled are left out.
    """
    hardware, training = config.hardware, config.training
    longest = training.max_prompt_tokens + training.max_response_tokens
    engines = {"student": (models["student"], hardware.rollout_tensor_parallel, longest)}
    for name, expert in experts_of(config).items():
        if expert.is_built and expert.response_tokens:
            own = training.max_prompt_tokens + expert.response_tokens
        else:
            own = longest
        if expert.is_built:
            model = expert.shaped_like(models)[1]
            engines[f"expert {name}"] = (model, hardware.rollout_tensor_parallel, own)
    for name, model, width in _pool_servers(config, models):
        engines[f"server of {name}"] = (model, width, longest)
    quantized = hardware.rollout_quantization == "fp8"
    found: dict[str, int] = {}
    for name, (model, shared, tokens) in engines.items():
        try:
            size = size_of(model)
        except ValueError:
            continue
        own_weights = quantized and not name.startswith("server")
        found[name] = rollout_bytes(size, tensor_parallel=shared, longest=tokens, quantized=own_weights)
    return found


# --------------------------------------------------------------------------------------- main memory


def main_memory(config: MergeConfig, models: Models, scored: int, available: int | None = None) -> Held:
    """Main memory of the machine that holds most: on a CPU that of the run, else of the command's node.

    `scored` are the parameters that the scorer holds (`merging.checks.machine.scored_parameters`).
    """
    phases = (
        cpu_phases(config, models, scored)
        if config.hardware.device == "cpu"
        else _node_phases(config, models, scored)
    )
    return Held("main memory", phases, available)


def cpu_phases(config: MergeConfig, models: Models, scored: int) -> dict[str, Parts]:
    """Of a run on a CPU, where every rank holds all of the model."""
    ranks, largest = config.hardware.gpus, largest_trained(config, models)
    processes = {"processes": CPU_PROCESSES_BYTES}
    phases = {
        "merge": {**_on_a_cpu(ranks, models["student"].parameters), "scorer": SINGLE * scored, **processes},
        "experts": {**_on_a_cpu(ranks, largest), **processes},
        **(
            {"polish": {**_on_a_cpu(ranks, models["student"].parameters), **processes}}
            if config.polish
            else {}
        ),
        **_weight_merges(config, models, processes),
    }
    return phases


def _on_a_cpu(ranks: int, parameters: int) -> Parts:
    """A training in float32, and vLLM's copy."""
    one = SINGLE * parameters * ranks
    return {"weights": one, "gradients": one, "optimizer": 2 * one, "rollout": one}


def _node_phases(config: MergeConfig, models: Models, scored: int) -> dict[str, Parts]:
    """Of a node with GPUs: its trainers, engines and, on the first, the scorer."""
    hardware, training = config.hardware, config.training
    student, replicas = models["student"], min(scorer_replicas(config), hardware.gpus)
    processes = {"processes": HOST_PROCESS_BYTES * (2 * hardware.gpus + replicas)}
    held = {"scorer": HALF * scored * bool(replicas), **processes}
    rollouts = training.prompts_per_step * training.samples_per_prompt
    tokens = rollouts * (training.max_prompt_tokens + training.max_response_tokens)
    sent = _sent_numbers(config, student) * rollouts * training.max_response_tokens
    return {
        "loading": {"weights in float32": _loaded(student, hardware.gpus), **held},
        "training": {
            "offloaded": OFFLOADED_BYTES[hardware.offload] * student.parameters // hardware.nodes,
            "rollouts of a step": ROLLOUT_TOKEN_BYTES * tokens + SINGLE * sent,
            **held,
        },
        **_weight_merges(config, models, processes),
    }


def _loaded(model: ModelFingerprint, ranks: int) -> int:
    """verl reads the model in float32 before it is sharded: one rank does, or each if the head is tied."""
    return SINGLE * model.parameters * (ranks if is_tied(Path(model.path)) else 1)


def _sent_numbers(config: MergeConfig, student: ModelFingerprint) -> int:
    """What the scorer sends of each response token's distributions."""
    estimator = config.objective.estimator
    if not estimator.compares_distributions:
        return 0
    return 2 * estimator.k if estimator.kind == "topk" else student.vocab_size


def _weight_merges(config: MergeConfig, models: Models, processes: Parts) -> dict[str, Parts]:
    """A merge of weights holds base and experts, in float32 its result and the magnitudes of one."""
    held = len(config.domains) + 3
    parts = {"models": SINGLE * models["student"].parameters * held, **processes}
    found = {"start": parts} if config.training.merged_start else {}
    return found | ({"baselines of weights": parts} if config.weight_baselines() else {})


def largest_trained(config: MergeConfig, models: Models) -> int:
    """Weights of the largest model that is trained: the student, or what an expert is built from."""
    built = [expert.parameters(models) for expert in experts_of(config).values() if expert.is_built]
    return max([models["student"].parameters, *built])


# ---------------------------------------------------------------------------------------------- disk


def disk_parts(config: MergeConfig, models: Models) -> Parts:
    """Disk space of the run folder and the registry, by part."""
    student, experts = models["student"].parameters, experts_of(config).values()
    built = sum(expert.parameters(models) for expert in experts if expert.is_built)
    more = _trained_on(config, models)
    polished = config.polish is not None
    trained = student * (1 + polished + len(config.trained_baselines())) + built + more
    exported = sum(expert.exported_parameters(models) for expert in experts)
    exported += student * bool(config.training.merged_start)
    # a new checkpoint is written before the old one is removed
    full = config.hardware.checkpoints == "full"
    checkpoint = 2 * CHECKPOINT_BYTES if full else WEIGHTS_CHECKPOINT_BYTES
    return {
        "checkpoints": checkpoint * trained + _best_bytes(config, student),
        "models": SINGLE * exported + kept_bytes(config, models),
        "samples and logs": GIB // 4,
    }


def _best_bytes(config: MergeConfig, student: int) -> int:
    """Weights of the best validation, of the merge and of each baseline that is distilled."""
    if config.training.keep == "last":
        return 0
    return SINGLE * student * (1 + len(config.distilled_baselines()))


def kept_bytes(config: MergeConfig, models: Models) -> int:
    """Disk space of the models that the run itself makes: the student, baselines, experts trained on."""
    student = models["student"].parameters
    return SINGLE * (student * (1 + config.further_models()) + _trained_on(config, models))


def _trained_on(config: MergeConfig, models: Models) -> int:
    """Parameters of the experts that `teacher_more` trains on, in full."""
    if config.teacher_more() is None:
        return 0
    built = [expert for expert in experts_of(config).values() if expert.is_built]
    return sum(expert.shaped_like(models)[1].parameters for expert in built)


def too_large(held: Sequence[Held]) -> list[Held]:
    """Those that hold more than there is."""
    return [one for one in held if not one.fits]
