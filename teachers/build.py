"""Builds an expert: GRPO on its domain's prompts, from its base, through the trainer."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import json_lines, new_folder, remove_folder, write_json, write_text
from common.models import resolve_model
from configs.blocks.experts import RLExpert
from configs.blocks.rewards import reward_identity
from configs.schema import MergeConfig
from routing.dataset import write_parquet
from routing.mix import schedule
from routing.routers.decisions import RoutedPrompt
from teachers.models import adapters
from teachers.models.distance import weight_distance
from teachers.models.fingerprint import facts, fingerprint
from teachers.provenance import versions
from teachers.registry.local import (
    LEARNING_CURVE,
    MODEL,
    RECORD,
    ExpertRecord,
    Registry,
    expert_files,
    expert_id,
    record_json,
)
from trainer.export import export
from trainer.job import Lora, TrainingJob, lora_of
from trainer.processes.ray_cluster import RayCluster
from trainer.run import OnStep, attempts, read_metrics, train, wall_seconds
from trainer.settings.owned import weight_settings

LORA_FIELDS = ("lora_rank", "lora_alpha")
REWARD_METRIC = "critic/score/mean"
SAVED_KEYS = {
    "reward": REWARD_METRIC,
    "response_length": "response_length/mean",
    "entropy": "actor/entropy",
    "gradient_norm": "actor/grad_norm",
    "step_seconds": "timing_s/step",
}


@dataclass(frozen=True)
class ExpertOrder:
    """One expert to be had: everything that decides its weights."""

    domain: str
    config: MergeConfig
    recipe: RLExpert
    prompts: tuple[RoutedPrompt, ...]

    @property
    def base(self) -> str:
        """The model that the reinforcement learning starts from: its own base, or the student."""
        return self.recipe.base or self.config.student

    @property
    def response_tokens(self) -> int:
        """Rollout length limit of the build."""
        return self.recipe.max_response_tokens or self.config.training.max_response_tokens

    @property
    def lora(self) -> Lora | None:
        """The adapter that is trained; None where all weights are."""
        return lora_of(self.recipe)

    @property
    def verl_settings(self) -> dict[str, Any]:
        """Further settings of verl's, by dotted key."""
        return self.config.verl_settings(self.recipe)

    def identity(self) -> dict[str, Any]:
        """Base, recipe, reward, data and lengths; nothing that leaves the weights as they are."""
        base = fingerprint(self.base)
        own = {"base", "save_every", "max_response_tokens", "verl", *LORA_FIELDS}
        recipe = self.recipe.model_dump(exclude=own)
        if self.lora is not None:  # experts without an adapter keep the ids of before there were any
            recipe |= {"lora_rank": self.lora.rank, "lora_alpha": self.lora.alpha}
        # in the identity only where they are set: other experts keep their ids
        further: dict[str, Any] = {}
        mode = self.config.prompt_modes()[self.domain]
        if mode.has_system:
            further["system_prompt"] = mode.system_prompt
        if settings := weight_settings(self.verl_settings):
            further["verl"] = settings
        if (quantization := self.config.hardware.rollout_quantization) != "none":
            further["rollout_quantization"] = quantization
        return {
            **further,
            "base_weights": base.weights_sha256,
            "base_tokenizer": base.tokenizer_sha256,
            "base_chat_template": base.chat_template_sha256,
            "recipe": recipe,
            "reward": reward_identity(self.config.domains[self.domain].reward),
            "prompts": _digest([[p.prompt.messages, p.prompt.answer] for p in self.prompts]),
            "chat_template_arguments": dict(mode.chat_template),
            "max_prompt_tokens": self.config.training.max_prompt_tokens,
            "max_response_tokens": self.response_tokens,
        }


def find_expert(registry: Registry, order: ExpertOrder) -> ExpertRecord | None:
    """The expert that this order describes, if it is built."""
    return registry.find(expert_id(order.identity()))


def build_expert(
    registry: Registry,
    order: ExpertOrder,
    cluster: Callable[[], RayCluster],
    on_step: OnStep,
    release: Callable[[], object] = lambda: None,
) -> ExpertRecord:
    """Builds the ordered expert, or continues a stopped build, and returns its record.

    `cluster` is called only where something has to be trained, `release` where another process is building
    this expert: that one may wait for the devices of this one's cluster. Raises common.errors.RunFailed.
    """
    identity = order.identity()
    id = expert_id(identity)
    with registry.building(id, release) as folder:
        record = registry.find(id) or registry.publish(id)  # another process was quicker
        if record is None:
            job = expert_job(order, folder)
            train(job, cluster(), on_step)
            _store(registry, order, id, identity, job)
            record = registry.publish(id)
            assert record is not None
        remove_folder(folder)
    return registry.fetch(record)


def expert_job(order: ExpertOrder, folder: Path) -> TrainingJob:
    """The training that an order asks for, with its work in `folder`."""
    recipe, training = order.recipe, order.config.training
    rows = schedule(order.prompts, recipe.steps, recipe.prompts_per_step, recipe.seed)
    return grpo_job(
        order.config,
        write_judged_rows(order.config, rows, folder / "prompts.parquet"),
        folder,
        name=f"expert-{order.domain}",
        model_path=order.base,
        verl_settings=order.verl_settings,
        steps=recipe.steps,
        prompts_per_step=recipe.prompts_per_step,
        samples_per_prompt=recipe.samples_per_prompt,
        learning_rate=recipe.learning_rate,
        lora=order.lora,
        warmup_steps=recipe.warmup_steps,
        max_prompt_tokens=training.max_prompt_tokens,
        max_response_tokens=order.response_tokens,
        save_every=recipe.save_every,
        seed=recipe.seed,
    )


def write_judged_rows(config: MergeConfig, rows: Sequence[RoutedPrompt], path: Path) -> Path:
    """Writes scheduled rows, each with the system message and the reward of its domain; returns `path`."""
    return write_parquet(
        rows,
        path,
        rewards={name: domain.reward for name, domain in config.domains.items()},
        reward_scales=[1.0] * len(rows),
        modes=config.prompt_modes(),
    )


def grpo_job(config: MergeConfig, train_file: Path, folder: Path, **recipe: Any) -> TrainingJob:
    """GRPO on the rows of `write_judged_rows`, every answer judged by the reward of its row's domain.

    `recipe` holds the other fields of `TrainingJob`: its name, where it starts, and how it is trained.
    """
    return TrainingJob(
        train_file=train_file,
        folder=folder,
        hardware=config.hardware,
        chat_template=config.chat_template,
        chat_templates=config.own_chat_templates(),
        reward_function=("teachers.rewards", "compute_score"),
        measure_entropy=config.metrics.entropy,
        **recipe,
    )


def _store(
    registry: Registry, order: ExpertOrder, id: str, identity: dict[str, Any], job: TrainingJob
) -> None:
    curve = learning_curve(job.folder)
    last = [row["reward"] for row in curve[-max(1, len(curve) // 10) :] if "reward" in row]
    target = registry.folder(id)
    with new_folder(target) as folder:
        base = resolve_model(order.base)
        export(job.checkpoints, job.steps, base, folder / MODEL, job.lora)
        write_text(folder / LEARNING_CURVE, json_lines(curve))
        tried = len(attempts(job.folder))
        model = fingerprint(base if job.lora is not None else folder / MODEL)
        own = adapters.fingerprint(folder / MODEL).parameters if job.lora is not None else model.parameters
        record = ExpertRecord(
            id=id,
            domain=order.domain,
            identity=identity,
            weights_sha256=adapters.weights_sha256(folder / MODEL),
            prompts=len(order.prompts),
            final_reward=sum(last) / len(last) if last else None,
            wall_seconds=round(wall_seconds(job.folder), 1),
            attempts=tried,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=versions(),
            path=str(target),
            declaration=order.config.domains[order.domain].model_dump(mode="json"),
            base={"path": str(base), "weights_sha256": identity["base_weights"]},
            parent=registry.parent_of(identity["base_weights"]),
            fingerprint=facts(model) | {"parameters": own},
            trained_tokens=order.config.training.max_prompt_tokens + order.response_tokens,
            data_sha256=identity["prompts"],
            seed=order.recipe.seed,
            learning_curve=LEARNING_CURVE,
            resumed=max(0, tried - 1),
            distance=weight_distance(base, folder / MODEL),
            size_bytes=expert_files.size(folder),
            files=expert_files.digests(folder),
        )
        write_json(folder / RECORD, record_json(record))


def learning_curve(folder: Path) -> list[dict[str, float]]:
    """One row a step: reward, response length, entropy, gradient norm, seconds; those that were measured."""
    return [
        {"step": row["step"], **{name: row[key] for name, key in SAVED_KEYS.items() if _measured(row, key)}}
        for row in read_metrics(folder)
    ]


def _measured(row: Mapping[str, float], key: str) -> bool:
    return key in row and not math.isnan(row[key])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def grpo_text(raw: Mapping[str, float]) -> str:
    """Mean reward and length of one GRPO step, from verl's metrics, for the bar."""
    reward, length = (raw.get(key, float("nan")) for key in (REWARD_METRIC, "response_length/mean"))
    return f"reward {reward:.3f}, {length:.0f} tokens"
