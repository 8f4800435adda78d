"""Builds an expert: GRPO on its domain's prompts, from its base, through the trainer."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.experts import RLExpert
from configs.schema import MergeConfig
from routing.dataset import write_parquet
from routing.mix import schedule
from routing.routers import RoutedPrompt
from teachers.adapters import weights_sha256
from teachers.fingerprint import fingerprint
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
            "reward": self.config.domains[self.domain].reward,
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
        if (built := registry.find(id)) is not None:  # another process was quicker
            return built
        job = _job(order, folder)
        train(job, cluster(), on_step)
        record = _store(registry, order, id, identity, job)
        shutil.rmtree(folder)
    return record


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
) -> ExpertRecord:
    curve = learning_curve(job.folder)
    last = [row["reward"] for row in curve[-max(1, len(curve) // 10) :] if "reward" in row]
    target = registry.folder(id)
    with new_folder(target) as folder:
        base = Path(order.base)
        if job.lora is None:
            export(job.checkpoints, job.steps, base, folder / MODEL)
        else:
            export_adapter(job.checkpoints, job.steps, base, folder / MODEL, job.lora)
        (folder / LEARNING_CURVE).write_text(
            "".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8"
        )
        record = ExpertRecord(
            id=id,
            domain=order.domain,
            identity=identity,
            weights_sha256=weights_sha256(folder / MODEL),
            prompts=len(order.prompts),
            final_reward=sum(last) / len(last) if last else None,
            wall_seconds=round(wall_seconds(job.folder), 1),
            attempts=len(attempts(job.folder)),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=versions(),
            path=str(target),
        )
        write_json(folder / RECORD, record_json(record))
    return record


def learning_curve(folder: Path) -> list[dict[str, float]]:
    """One row a step: reward, response length, entropy, gradient norm, seconds."""
    return [
        {"step": row["step"], **{name: row[key] for name, key in SAVED_KEYS.items() if key in row}}
        for row in read_metrics(folder)
    ]


def read_learning_curve(record: ExpertRecord) -> list[dict[str, float]]:
    """The stored learning curve of a built expert."""
    lines = (Path(record.path) / LEARNING_CURVE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
