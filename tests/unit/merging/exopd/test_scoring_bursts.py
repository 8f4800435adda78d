"""Answers that end at nearly the same time are scored together, and each with its own scores."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("verl.trainer.ppo.v1.agent_loop_tq")

import torch

from merging.exopd import agent_loop
from merging.exopd.job import merge_job
from tests.helpers.merge_jobs import TEACHERS, config_with
from tests.helpers.rollouts import roll_out
from trainer.overrides import verl_config


class Scorer:
    """Notes how many answers had ended when it was asked for each; scores are minus the length."""

    def __init__(self):
        self.engine, self.ended = None, []

    async def score(self, models, token_ids, response_tokens):
        self.ended.append(self.engine.answered)
        await asyncio.sleep(0)
        return [np.full(len(token_ids), -float(response_tokens), dtype="float32") for _ in models]


def test_the_scorer_is_asked_once_all_answers_of_a_burst_have_ended(tmp_path, monkeypatch):
    rollouts, scorer = [], Scorer()

    async def put(keys, partition_id, fields=None, tags=None):
        if fields is not None:
            rollouts.extend(
                zip(fields["teacher_logprobs"].unbind(), fields["responses"].unbind(), strict=True)
            )

    monkeypatch.setattr("transfer_queue.async_kv_batch_put", put)
    monkeypatch.setattr("transfer_queue.init", lambda: None)
    monkeypatch.setattr(agent_loop.Replicas, "connect", lambda: scorer)
    config = config_with("training.prompts_per_step", 4, "objective.estimator", "sampled")
    settings = verl_config(merge_job(config, "merge", TEACHERS, Path("rows.parquet"), tmp_path), "metrics")

    def worker(*arguments, llm_client):
        scorer.engine = llm_client
        return agent_loop.ScoringAgentLoopWorker(
            *arguments, llm_client=llm_client, teacher_client=dict.fromkeys(TEACHERS)
        )

    settings.actor_rollout_ref.rollout.n = 2
    roll_out(worker, settings)
    assert scorer.ended == [6] * 6
    assert len(rollouts) == 6
    for scores_TC, response_T in rollouts:
        assert torch.equal(scores_TC, torch.full_like(scores_TC, -float(len(response_T))))
