"""Compiles the merge of a config into a verl training job: ExOPD, or OPD as its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.objective import SampledEstimator
from configs.schema import MergeConfig
from merging.names import (
    DISTRIBUTION_LOSS_NAME,
    DISTRIBUTION_MODEL_TYPE,
    LOSS_NAME,
    reference_names,
)
from trainer.job import TrainingJob
from trainer.overrides import inference_settings

REWARD_FUNCTION = ("teachers.rewards", "observe_score")


def merge_job(
    config: MergeConfig,
    name: str,
    teachers: dict[str, str],
    train_file: Path,
    folder: Path,
    adapters: Mapping[str, str] | None = None,
) -> TrainingJob:
    """The job that trains the student on `train_file`, whose rows carry `teacher` and `reward_scale`.

    `teachers` maps each domain to the folder of its expert's full model, `adapters` those whose expert is an
    adapter to the adapter's, which the shared scorer reads instead, on the student.
    """
    training = config.training
    read_as_adapters = adapters or {} if config.scorer.kind == "shared" else {}
    return TrainingJob(
        name=name,
        model_path=config.student,
        train_file=train_file,
        folder=folder,
        steps=training.steps,
        prompts_per_step=training.prompts_per_step,
        samples_per_prompt=training.samples_per_prompt,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_steps,
        schedule=training.schedule,
        max_prompt_tokens=training.max_prompt_tokens,
        max_response_tokens=training.max_response_tokens,
        save_every=training.save_every,
        seed=training.seed,
        hardware=config.hardware,
        reward_function=REWARD_FUNCTION,
        weight_decay=training.weight_decay,
        gradient_clip=training.gradient_clip,
        loss_aggregation=training.loss_aggregation,
        agent_loop_manager="merging.agent_loop.ScoringAgentLoopManager",
        chat_template=config.chat_template,
        imports=("merging.shared_trainer",) if config.scorer.kind == "shared" else (),
        verl_overrides={
            **_objective(config),
            **_teachers(config, teachers),
            **_scorer(config, {**teachers, **read_as_adapters}),
        },
    )


def references(config: MergeConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Name of each domain's reference, and the models {name: path} that are read as one."""
    paths = {name: config.reference_of(name) for name in config.domains}
    names = reference_names(paths, config.student)
    return names, {names[domain]: path for domain, path in paths.items()}


def scorer_dtype(config: MergeConfig) -> str:
    """Number format in which teachers and references are read."""
    return "float32" if config.hardware.device == "cpu" else "bfloat16"


def logical_gpus(config: MergeConfig) -> int:
    """Devices that a CPU machine must declare to Ray for this config's widest stage."""
    trainer = config.hardware.gpus
    if config.scorer.kind == "shared":
        return trainer
    return trainer + config.hardware.scorer_gpus * (len(config.domains) + len(references(config)[1]))


def _objective(config: MergeConfig) -> dict[str, Any]:
    loss = "distillation.distillation_loss"
    shared = {
        "distillation.enabled": True,
        f"{loss}.use_task_rewards": False,
        f"{loss}.loss_max_clamp": None,
        f"{loss}.log_prob_min_clamp": None,
    }
    estimator = config.objective.estimator
    if isinstance(estimator, SampledEstimator):
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
        "actor_rollout_ref.model.external_lib": "merging.distribution_engine",
        # no policy gradient reads the trainer's log-probs of before the update: a forward pass is saved
        "algorithm.rollout_correction.bypass_mode": True,
        "actor_rollout_ref.actor.calculate_entropy": True,
    }


def _teachers(config: MergeConfig, teachers: dict[str, str]) -> dict[str, Any]:
    """verl's teacher entries: servers of the pool, or, with the shared scorer, names without a server."""
    pool = config.scorer.kind == "pool"
    devices = config.hardware.scorer_gpus
    models = {**teachers, **(references(config)[1] if pool else {})}
    settings: dict[str, Any] = {
        "distillation.teacher_key": "teacher",
        "distillation.nnodes": 1 if pool else 0,
        "distillation.n_gpus_per_node": devices * len(models) if pool else 0,
    }
    for index, (key, path) in enumerate(models.items()):
        settings[f"distillation.teacher_models.teacher_{index}"] = {
            "key": key,
            "model_path": path,
            "num_replicas": 1 if pool else 0,
            "inference": _inference(config),
        }
    return settings


def _inference(config: MergeConfig) -> dict[str, Any]:
    training = config.training
    return inference_settings(config.hardware, training.max_prompt_tokens, training.max_response_tokens)


def _scorer(config: MergeConfig, teachers: dict[str, str]) -> dict[str, Any]:
    names, models = references(config)
    settings: dict[str, Any] = {
        "protege.scorer": {
            "kind": config.scorer.kind,
            "models": {**models, **teachers},
            "base": config.student,
            "references": names,
            "device": config.hardware.device,
            "dtype": scorer_dtype(config),
            "tokens_per_batch": config.scorer.tokens_per_batch,
            "canary": config.scorer.canary,
            "distributions": not isinstance(config.objective.estimator, SampledEstimator),
            "top_k": getattr(config.objective.estimator, "k", None),
            "largest_log_ratio": config.objective.largest_log_ratio,
        }
    }
    if config.scorer.kind == "shared":
        settings["trainer.v1.trainer_mode"] = "shared_scorer"
        settings["trainer.v1.shared_scorer"] = {}
    return settings
