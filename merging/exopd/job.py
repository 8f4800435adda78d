"""Compiles the merge of a config into a verl training job: ExOPD, or OPD as its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import MergeConfig
from merging.exopd.lambda_schedule import (
    EverRead,
    LambdaSchedule,
    models_ever_read,
)
from merging.exopd.names import (
    DISTRIBUTION_LOSS_NAME,
    DISTRIBUTION_MODEL_TYPE,
    LOSS_NAME,
    references,
    row_columns,
    with_shared_scorer,
)
from merging.exopd.pool import models_of, pool_layout, widest_pool
from merging.state.adapted import begins_at
from merging.state.served import served_model
from routing.dataset import write_parquet
from teachers.models.adapters import is_adapter
from teachers.served.examine import ServedFacts
from trainer.job import TrainingJob, merge_settings
from trainer.overlap import SEPARATE_MODE, SHARED_DEVICES_MODE, overlap_settings
from trainer.overrides import inference_settings
from trainer.validation import OWN_SYNC_MODE, Validation

if TYPE_CHECKING:
    from configs.blocks.rewards import Reward
    from routing.routers.decisions import RoutedPrompt

REWARD_FUNCTION = ("teachers.rewards", "observe_score")

TRAINER_MODES = {
    "shared": ("shared_scorer", ("merging.exopd.trainer",)),
    "sharded": ("sharded_scorer", ("merging.exopd.sharded.trainer",)),
}
"""By `scorer.kind`: verl's trainer mode without overlap, and the modules that register it. The pool has one
of verl's own."""

AGENT_LOOPS = {
    "shared": "merging.exopd.agent_loop.ScoringAgentLoopManager",
    "pool": "merging.exopd.agent_loop.ScoringAgentLoopManager",
    "sharded": "merging.exopd.sharded.agent_loop.UnscoredAgentLoopManager",
}
"""By `scorer.kind`: whether rollouts are scored as each one ends, or together after the last."""


def merge_job(
    config: MergeConfig,
    name: str,
    teachers: dict[str, str],
    train_file: Path,
    folder: Path,
    adapters: Mapping[str, str] | None = None,
    schedule: LambdaSchedule | None = None,
    served: Mapping[str, ServedFacts] | None = None,
    start: Path | None = None,
    validation: Validation | None = None,
    gap: Mapping[str, Any] | None = None,
) -> TrainingJob:
    """The job that trains the student on `train_file`, whose rows carry `teacher` and `reward_scale`.

    `teachers` maps each domain to the folder of its expert's full model, `adapters` those whose expert is an
    adapter to the adapter's, which the shared scorer reads instead, on the student. `schedule` is the lambda
    of the rows, by default the config's; models that it never reads are not loaded. `served` is what the
    servers of served models said when the run began. `start` is the model whose weights are trained, by
    default the student's; an adapter on the student, which a training made, is trained on. `validation` is
    what is validated meanwhile. `gap` is the order of the rows where it is decided while the student trains
    (`merging.exopd.gap.shares.Reading.to_json`): then `train_file` is the pool of prompts.
    """
    read = models_ever_read(schedule or LambdaSchedule.of(config), config.training.steps)
    read_as_adapters = adapters or {} if config.scorer.kind == "shared" else {}
    mode, modules = _trainer(config)
    begin: dict[str, Any] = {"model_path": config.student if start is None else str(start)}
    if start is not None and is_adapter(start):
        begin = begins_at(config, start)
    return TrainingJob(
        **{**merge_settings(TrainingJob, config.training), **begin},
        name=name,
        train_file=train_file,
        folder=folder,
        hardware=config.hardware,
        reward_function=REWARD_FUNCTION,
        agent_loop_manager=AGENT_LOOPS[config.scorer.kind],
        chat_template=config.chat_template,
        chat_templates=config.own_chat_templates(),
        measure_entropy=config.metrics.entropy,
        imports=modules,
        verl_settings=config.verl_settings(),
        validation=validation,
        verl_overrides={
            **_objective(config),
            **_teachers(config, teachers, read),
            **_scorer(config, {**teachers, **read_as_adapters}, read, served or {}),
            **({} if mode == "sync" else {"trainer.v1.trainer_mode": mode, f"trainer.v1.{mode}": {}}),
            **(overlap_settings(config.hardware) if config.training.overlap != "none" else {}),
            **({} if gap is None else _read_by_gap(gap)),
        },
    )


def _read_by_gap(gap: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data.custom_cls.path": "pkg://merging.exopd.gap.rows",
        "data.custom_cls.name": "GapRows",
        "data.gap": dict(gap),
    }


def write_rows(config: MergeConfig, rows: Sequence[RoutedPrompt], path: Path) -> None:
    """Writes the training file of these rows, each with its teacher and its step's lambda; whole or not at
    all."""
    domains = [row.domain for row in rows]
    scales = LambdaSchedule.of(config).of_rows(domains, config.training.prompts_per_step)
    _write(config, rows, path, scales)


def write_pool(config: MergeConfig, prompts: Sequence[RoutedPrompt], path: Path) -> None:
    """Writes every prompt once, each with its domain's lambda behind any warm-up, for trainings whose order
    is decided while they go on; whole or not at all."""
    settled = LambdaSchedule.of(config).settled()
    _write(config, prompts, path, [settled[row.domain] for row in prompts])


def _write(config: MergeConfig, rows: Sequence[RoutedPrompt], path: Path, scales: Sequence[float]) -> None:
    rewards: dict[str, Reward] = {name: domain.reward for name, domain in config.domains.items()}
    weights = {name: config.loss_weight_of(name) for name in config.domains}
    modes = config.prompt_modes()
    write_parquet(rows, path, rewards, scales, weights, columns=row_columns(config), modes=modes)


def scorer_dtype(config: MergeConfig) -> str:
    """Number format in which teachers and references are read."""
    return "float32" if config.hardware.device == "cpu" else "bfloat16"


def logical_gpus(config: MergeConfig) -> int:
    """Devices that a CPU machine must declare to Ray for this config's widest stage."""
    return config.hardware.gpus + config.hardware.rollout_gpus + widest_pool(config).devices


def _objective(config: MergeConfig) -> dict[str, Any]:
    loss = "distillation.distillation_loss"
    shared = {
        "distillation.enabled": True,
        f"{loss}.use_task_rewards": False,
        f"{loss}.loss_max_clamp": None,
        f"{loss}.log_prob_min_clamp": None,
    }
    estimator = config.objective.estimator
    if estimator.kind == "sampled":
        return shared | {
            f"{loss}.loss_mode": LOSS_NAME,
            f"{loss}.use_policy_gradient": True,  # costs become advantages: the token's log-prob is moved
            "algorithm.rollout_correction.rollout_is": "token",
            "algorithm.rollout_correction.rollout_is_threshold": estimator.importance_weight_cap,
        }
    return shared | {
        f"{loss}.loss_mode": DISTRIBUTION_LOSS_NAME,
        f"{loss}.use_policy_gradient": False,  # a direct loss: verl differentiates it
        "actor_rollout_ref.model.model_type": DISTRIBUTION_MODEL_TYPE,
        "actor_rollout_ref.model.external_lib": "merging.exopd.engine",
        # no policy gradient reads the trainer's log-probs of before the update: a forward pass is saved
        "algorithm.rollout_correction.bypass_mode": True,
        "actor_rollout_ref.actor.calculate_entropy": config.metrics.entropy,
    }


def _teachers(config: MergeConfig, teachers: Mapping[str, str], read: EverRead) -> dict[str, Any]:
    """verl's teacher entries: servers of the pool, or, with another scorer, names without a server."""
    layout = pool_layout(config, read)
    settings: dict[str, Any] = {
        "distillation.teacher_key": "teacher",
        "distillation.nnodes": layout.nodes,
        "distillation.n_gpus_per_node": layout.devices_per_node,
    }
    paths = {**references(config)[1], **teachers}
    for index, key in enumerate(layout.servers or config.domains):
        own = layout.servers.get(key)
        settings[f"distillation.teacher_models.teacher_{index}"] = {
            "key": key,
            "model_path": paths.get(key, config.student),  # nothing is loaded for a name without a server
            "num_replicas": own.replicas if own else 0,
            "inference": _inference(config, own.tensor_parallel if own else 1),
        }
    return settings


def _inference(config: MergeConfig, tensor_parallel: int) -> dict[str, Any]:
    training = config.training
    return inference_settings(
        config.hardware, training.max_prompt_tokens, training.max_response_tokens, tensor_parallel
    )


def _scorer(
    config: MergeConfig, teachers: Mapping[str, str], read: EverRead, facts: Mapping[str, ServedFacts]
) -> dict[str, Any]:
    names, models = references(config)
    endpoints = config.served()
    wanted = models_of(config, read)
    held = {name: path for name, path in {**models, **teachers}.items() if name in wanted}
    asked = {name: asdict(served_model(name, own, facts.get(name))) for name, own in endpoints.items()}
    return {
        "protege.scorer": {
            "kind": config.scorer.kind,
            "models": held,
            **({"served": asked} if asked else {}),
            "base": config.student,
            "references": names,
            "device": config.hardware.device,
            "dtype": scorer_dtype(config),
            "tokens_per_batch": config.scorer.tokens_per_batch,
            "canary": config.scorer.canary,
            "replicas": config.scorer.replicas_on(config.hardware),
            "distributions": config.objective.estimator.compares_distributions,
            "top_k": getattr(config.objective.estimator, "k", None),
            "largest_log_ratio": config.objective.largest_log_ratio,
        }
    }


def _trainer(config: MergeConfig) -> tuple[str, tuple[str, ...]]:
    """The mode in verl's registry of trainers, and the modules of ours that register it."""
    shared = config.scorer.kind == "shared"
    if config.training.overlap == "none":
        verls = config.training.validate_every is None
        plain = ("sync", ()) if verls else (OWN_SYNC_MODE, ("trainer.within.own_mode",))
        return TRAINER_MODES.get(config.scorer.kind, plain)
    mode = SEPARATE_MODE if config.hardware.rollout_gpus else SHARED_DEVICES_MODE
    if shared:
        return with_shared_scorer(mode), ("merging.exopd.overlap",)
    return mode, ("trainer.within.read_ahead",)
