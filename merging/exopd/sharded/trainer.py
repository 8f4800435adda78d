"""verl's synchronous trainer, with each step's rollouts scored by all training devices together.

verl's step has a place for the log-probabilities of a frozen model: after the rollout, while its engines
sleep, and before the update. There every model that the step needs takes its turn on all devices.
"""

from __future__ import annotations

import time
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from merging.exopd.agent_loop import check_scores
from merging.exopd.sharded.rows import Rollout, joined, orders, response_scores, teacher_logprobs
from merging.exopd.sharded.worker import ShardedScoringWorker
from merging.exopd.without_pool import WithoutTeacherPool
from trainer.within.agent_loop import plain

TRAINER_MODE = "sharded_scorer"
SCORER_SETTINGS = ("device", "dtype", "tokens_per_batch", "canary")
"""What `ShardedScorer` reads beside the models."""


@register_trainer(TRAINER_MODE)
class ShardedScorerTrainer(WithoutTeacherPool, PPOTrainerSync):
    """Scores where verl's step asks the reference policy."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.use_reference_policy = True

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping[Role.ActorRollout] = ray.remote(ShardedScoringWorker)

    def _setup(self) -> None:
        super()._setup()
        settings = self.config.protege.scorer
        self.actor_rollout_wg.load_scorer(
            {"models": dict(settings.models), **{name: settings[name] for name in SCORER_SETTINGS}}
        )

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Puts `teacher_logprobs` [T, 2] on the batch, teacher T and reference B, as `ScoringAgentLoopWorker`
        does; raises ValueError for scores that cannot be right."""
        began = time.perf_counter()
        rollouts = self._rollouts(batch)
        outputs = self.actor_rollout_wg.score_rollouts(orders(rollouts, self.actor_rollout_wg.world_size))
        answers, counted = zip(*outputs, strict=True)
        self._attach(batch, rollouts, joined(answers))
        metrics["scorer/seconds"] = time.perf_counter() - began
        metrics["scorer/swaps"] = counted[0]["swaps"]
        metrics["scorer/bytes_read"] = sum(of_rank["bytes_read"] for of_rank in counted)
        return batch

    def _rollouts(self, batch: KVBatchMeta) -> list[Rollout]:
        fields = ["input_ids", "responses", "teacher", "reward_scale"]
        data: Any = tq.kv_batch_get(batch.keys, _partition(batch), select_fields=fields)
        references = dict(self.config.protege.scorer.references)
        rows = zip(
            data["input_ids"].unbind(),
            data["responses"].unbind(),
            list(data["teacher"]),
            list(data["reward_scale"]),
            strict=True,
        )
        return [
            Rollout.of(ids_T.numpy(), len(response_R), plain(teacher), float(plain(scale)), references)
            for ids_T, response_R, teacher, scale in rows
        ]

    def _attach(self, batch: KVBatchMeta, rollouts: list[Rollout], answers: dict[str, Any]) -> None:
        references = self.config.protege.scorer.references
        rows = []
        for place, rollout in enumerate(rollouts):
            scores_R2 = response_scores(place, rollout, answers)
            names = {rollout.teacher: "teacher", references[rollout.teacher]: "reference"}
            check_scores(
                scores_R2,
                rollout.token_ids[len(rollout.token_ids) - rollout.response_tokens :].tolist(),
                rollout.teacher,
                self.config.protege.scorer.largest_log_ratio,
                self.tokenizer.decode,
                [names[model] for model in rollout.models],
            )
            rows.append(teacher_logprobs(rollout, scores_R2))
        column = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        fields = TensorDict({"teacher_logprobs": column}, batch_size=len(rows))
        tq.kv_batch_put(batch.keys, _partition(batch), fields=fields)


def _partition(batch: KVBatchMeta) -> str:
    assert batch.partition_id is not None, "every batch is of a partition"
    return batch.partition_id
