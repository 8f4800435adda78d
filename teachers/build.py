"""Builds an expert: GRPO on its domain's prompts, from its base, through the trainer."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.experts import RLExpert
from configs.rewards import reward_identity
from configs.schema import MergeConfig
from routing.dataset import write_parquet
from routing.mix import schedule
from routing.routers import RoutedPrompt
from teachers import adapters, expert_files
from teachers.distance import weight_distance
from teachers.fingerprint import facts, fingerprint, resolve_model
from teachers.provenance import versions
from teachers.registry import LEARNING_CURVE, MODEL, RECORD, ExpertRecord, Registry, expert_id, record_json
from trainer.export import export, export_adapter
from trainer.files import new_folder, write_json
from trainer.job import Lora, TrainingJob
from trainer.ray_cluster import RayCluster
from trainer.run import OnStep, attempts, read_metrics, train, wall_seconds

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
        rank, alpha = self.recipe.lora_rank, self.recipe.lora_alpha
        return None if rank is None else Lora(rank, 2 * rank if alpha is None else alpha)

    def identity(self) -> dict[str, Any]:
        """Base, recipe, reward, data and lengths; nothing that leaves the weights as they are."""
        base = fingerprint(self.base)
        own = {"base", "save_every", "max_response_tokens", *LORA_FIELDS}
        recipe = self.recipe.model_dump(exclude=own)
        if self.lora is not None:  # experts without an adapter keep the ids of before there were any
            recipe |= {"lora_rank": self.lora.rank, "lora_alpha": self.lora.alpha}
        return {
            "base_weights": base.weights_sha256,
            "base_tokenizer": base.tokenizer_sha256,
            "base_chat_template": base.chat_template_sha256,
            "recipe": recipe,
            "reward": reward_identity(self.config.domains[self.domain].reward),
            "prompts": _digest([[p.prompt.messages, p.prompt.answer] for p in self.prompts]),
            "chat_template_arguments": self.config.chat_template,
            "max_prompt_tokens": self.config.training.max_prompt_tokens,
            "max_response_tokens": self.response_tokens,
        }


def find_expert(registry: Registry, order: ExpertOrder) -> ExpertRecord | None:
    """The expert that this order describes, if it is built."""
    return registry.find(expert_id(order.identity()))


def build_expert(
    registry: Registry, order: ExpertOrder, cluster: Callable[[], RayCluster], on_step: OnStep
) -> ExpertRecord:
    """Builds the ordered expert, or continues a stopped build, and returns its record.

    `cluster` is called only where something has to be trained. Raises trainer.errors.RunFailed.
    """
    identity = order.identity()
    id = expert_id(identity)
    with registry.building(id) as folder:
        record = registry.find(id) or registry.publish(id)  # another process was quicker
        if record is None:
            job = _job(order, folder)
            train(job, cluster(), on_step)
            _store(registry, order, id, identity, job)
            record = registry.publish(id)
            assert record is not None
        expert_files.remove_folder(folder)
    return registry.fetch(record)


def _job(order: ExpertOrder, folder: Path) -> TrainingJob:
    recipe, training = order.recipe, order.config.training
    rows = schedule(order.prompts, recipe.steps, recipe.prompts_per_step, recipe.seed)
    return grpo_job(
        order.config,
        rows,
        folder,
        name=f"expert-{order.domain}",
        model_path=order.base,
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


def grpo_job(config: MergeConfig, rows: Sequence[RoutedPrompt], folder: Path, **recipe: Any) -> TrainingJob:
    """GRPO on scheduled rows, every answer judged by the reward of its row's domain.

    Writes the rows to `folder/prompts.parquet`. `recipe` holds the other fields of `TrainingJob`: its name,
    where it starts, and how it is trained.
    """
    train_file = write_parquet(
        rows,
        folder / "prompts.parquet",
        rewards={name: domain.reward for name, domain in config.domains.items()},
        reward_scales=[1.0] * len(rows),
    )
    return TrainingJob(
        train_file=train_file,
        folder=folder,
        hardware=config.hardware,
        chat_template=config.chat_template,
        reward_function=("teachers.rewards", "compute_score"),
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
        if job.lora is None:
            export(job.checkpoints, job.steps, base, folder / MODEL)
        else:
            export_adapter(job.checkpoints, job.steps, base, folder / MODEL, job.lora)
        (folder / LEARNING_CURVE).write_text(
            "".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8"
        )
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
    """One row a step: reward, response length, entropy, gradient norm, seconds."""
    return [
        {"step": row["step"], **{name: row[key] for name, key in SAVED_KEYS.items() if key in row}}
        for row in read_metrics(folder)
    ]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
