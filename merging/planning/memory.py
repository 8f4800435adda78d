"""Memory of a run by part, from the models' widths: in main memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.schema import MergeConfig
from configs.served import REFERENCE
from merging.checks.models import named_models
from merging.exopd.names import references
from merging.exopd.pool import widest_pool
from merging.expert_kinds.kind import ExpertKind, Models
from merging.expert_kinds.kinds import experts_of
from merging.planning.held import Held
from teachers.models.adapters import lora_parameters
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

BASE_KEPT = "base while weights are sent"
"""To send an adapter and its base to the rollout, verl adds them in the trainer's own weights, and restores
these from a copy in main memory."""

WEIGHTS_CHECKPOINT_BYTES = 4
"""Bytes a parameter of a checkpoint that holds weights alone; one is made, at the end."""


def scorer_replicas(config: MergeConfig) -> int:
    """Processes of the shared scorer, each on a training device of its own."""
    return config.scorer.replicas_on(config.hardware) if config.scorer.kind == "shared" else 0


def student_adapter(config: MergeConfig, models: Models) -> int | None:
    """Weights of the adapter as which the student is trained; None where all its weights are."""
    rank = config.training.lora_rank
    return None if rank is None else lora_parameters(models["student"], rank)


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
    ranks, processes = config.hardware.gpus, {"processes": CPU_PROCESSES_BYTES}
    student = _on_a_cpu(ranks, models["student"].parameters, student_adapter(config, models))
    built = [
        _on_a_cpu(ranks, expert.parameters(models), expert.adapter_parameters(models))
        for expert in experts_of(config).values()
        if expert.is_built
    ]
    largest = max([student, *built], key=lambda parts: sum(parts.values()))
    phases = {
        "merge": {**student, "scorer": SINGLE * scored, **processes},
        "experts": {**largest, **processes},
        **({"polish": {**student, **processes}} if config.polish else {}),
        **_weight_merges(config, models, processes),
    }
    return phases


def _on_a_cpu(ranks: int, parameters: int, adapter: int | None) -> Parts:
    """A training in float32, of all weights or of an adapter of so many, and vLLM's copy."""
    one, own = SINGLE * parameters * ranks, SINGLE * (adapter or 0) * ranks
    if adapter is None:
        return {"weights": one, "gradients": one, "optimizer": 2 * one, "rollout": one}
    kept = {BASE_KEPT: one}
    return {"weights": one + own, "gradients": own, "optimizer": 2 * own, "rollout": one, **kept}


def _node_phases(config: MergeConfig, models: Models, scored: int) -> dict[str, Parts]:
    """Of a node with GPUs: its trainers, engines and, on the first, the scorer."""
    hardware, training = config.hardware, config.training
    student, replicas = models["student"], min(scorer_replicas(config), hardware.gpus)
    processes = {"processes": HOST_PROCESS_BYTES * (2 * hardware.gpus + replicas)}
    adapter = student_adapter(config, models)
    held = {"scorer": HALF * scored * bool(replicas), **processes}
    rollouts = training.prompts_per_step * training.samples_per_prompt
    tokens = rollouts * (training.max_prompt_tokens + training.max_response_tokens)
    sent = _sent_numbers(config, student) * rollouts * training.max_response_tokens
    return {
        "loading": {"weights in float32": _loaded(student, hardware.gpus), **held},
        "training": {
            "offloaded": _offloaded(hardware.offload, student.parameters, adapter) // hardware.nodes,
            **({} if adapter is None else {BASE_KEPT: SINGLE * student.parameters // hardware.nodes}),
            "rollouts of a step": ROLLOUT_TOKEN_BYTES * tokens + SINGLE * sent,
            **held,
        },
        **_weight_merges(config, models, processes),
    }


def _offloaded(offload: str, parameters: int, adapter: int | None) -> int:
    """Bytes that wait in main memory, by `hardware.offload`: moments, and weights and gradients too."""
    trained = SINGLE * (parameters if adapter is None else adapter)
    return {"none": 0, "optimizer": 2 * trained, "all": SINGLE * parameters + 3 * trained}[offload]


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
    built = sum(_trained(expert, models) for expert in experts if expert.is_built)
    more = sum(size for size, _ in _trained_on(config, models))
    own = _student_trained(config, models)
    trained = own * _trained_models(config) + built + more
    exported = sum(expert.exported_parameters(models) for expert in experts)
    exported += student * bool(config.training.merged_start)
    # a new checkpoint is written before the old one is removed
    full = config.hardware.checkpoints == "full"
    checkpoint = 2 * CHECKPOINT_BYTES if full else WEIGHTS_CHECKPOINT_BYTES
    return {
        "checkpoints": checkpoint * trained + _best_bytes(config, own),
        "models": SINGLE * exported + kept_bytes(config, models),
        "samples and logs": GIB // 4,
    }


def _student_trained(config: MergeConfig, models: Models) -> int:
    """Weights that a training of the student trains."""
    adapter = student_adapter(config, models)
    return models["student"].parameters if adapter is None else adapter


def _trained(expert: ExpertKind, models: Models) -> int:
    """Weights that the building of an expert trains."""
    adapter = expert.adapter_parameters(models)
    return expert.parameters(models) if adapter is None else adapter


def _trained_models(config: MergeConfig) -> int:
    """Trainings of the student: the merge, its polish, baselines."""
    return 1 + (config.polish is not None) + len(config.trained_baselines())


def _best_bytes(config: MergeConfig, trained: int) -> int:
    """Weights of the best validation, of the merge and of each baseline that is distilled."""
    if config.training.keep == "last":
        return 0
    return SINGLE * trained * (1 + len(config.distilled_baselines()))


def kept_bytes(config: MergeConfig, models: Models) -> int:
    """Disk space of the models that the run itself makes: the student, baselines, experts trained on; of
    adapters with the full models that are made of them in the registry."""
    student, adapter = models["student"].parameters, student_adapter(config, models)
    full = 1 + config.further_models() + config.training.full_model
    adapters = 0 if adapter is None else adapter * _trained_models(config)
    more = sum(kept for _, kept in _trained_on(config, models))
    return SINGLE * (student * full + adapters + more)


def _trained_on(config: MergeConfig, models: Models) -> list[tuple[int, int]]:
    """Of each expert that `teacher_more` trains on: weights that are trained, and those that are kept."""
    if config.teacher_more() is None:
        return []
    sizes = []
    for expert in (expert for expert in experts_of(config).values() if expert.is_built):
        whole, adapter = expert.shaped_like(models)[1].parameters, expert.adapter_parameters(models)
        if config.training.lora_rank is None or adapter is None:
            sizes.append((whole, whole))
        else:
            sizes.append((adapter, adapter + whole))
    return sizes


def too_large(held: Sequence[Held]) -> list[Held]:
    """Those that hold more than there is."""
    return [one for one in held if not one.fits]
