"""A plain training job (an expert's): every field of it arrives in verl's configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from configs.schema import Hardware
from tests.unit.model_copies import STUDENT
from tests.unit.verl_configs import composed_once, difference, verl_values
from trainer.job import Lora, TrainingJob

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

JOB = TrainingJob(
    name="expert-math",
    model_path=str(STUDENT),
    train_file=Path("/build/prompts.parquet"),
    folder=Path("/build"),
    steps=45,
    prompts_per_step=32,
    samples_per_prompt=8,
    learning_rate=3e-4,
    max_prompt_tokens=72,
    max_response_tokens=48,
    save_every=20,
    seed=0,
    hardware=Hardware(device="cpu"),
    reward_function=("teachers.rewards", "compute_score"),
)

CHANGES = {
    "train_file": (Path("/x.pq"), {"data.train_files": ["/x.pq"], "data.val_files": ["/x.pq"]}),
    "folder": (Path("/other"), {"trainer.default_local_dir": "/other/checkpoints"}),
    "model_path": ("/none", {"actor_rollout_ref.model.path": "/none"}),
    "steps": (50, {"trainer.total_training_steps": 50, "trainer.total_epochs": 50}),
    "prompts_per_step": (64, {"data.train_batch_size": 64, f"{ACTOR}.ppo_mini_batch_size": 64}),
    "samples_per_prompt": (16, {f"{ROLLOUT}.n": 16}),
    "learning_rate": (1e-3, {f"{ACTOR}.optim.lr": 1e-3}),
    "lora": (Lora(4, 9), {"actor_rollout_ref.model.lora_rank": 4, "actor_rollout_ref.model.lora_alpha": 9,
                          "actor_rollout_ref.model.lora.merge": True,
                          f"{ACTOR}.checkpoint.save_lora_only": True}),
    "warmup_steps": (10, {f"{ACTOR}.optim.lr_warmup_steps": 10}),
    "schedule": ("cosine", {f"{ACTOR}.optim.lr_scheduler_type": "cosine"}),
    "weight_decay": (0.0, {f"{ACTOR}.optim.weight_decay": 0.0}),
    "gradient_clip": (2.0, {f"{ACTOR}.grad_clip": 2.0, f"{ACTOR}.optim.clip_grad": 2.0}),
    "loss_aggregation": ("seq-mean-token-mean", {f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean"}),
    "max_prompt_tokens": (71, {"data.max_prompt_length": 71, f"{ROLLOUT}.max_model_len": 120}),
    "max_response_tokens": (47, {"data.max_response_length": 47, f"{ROLLOUT}.max_model_len": 120}),
    "save_every": (5, {"trainer.save_freq": 5}),
    "seed": (1, {"data.seed": 1, f"{ACTOR}.data_loader_seed": 1, f"{ACTOR}.fsdp_config.seed": 1,
                 f"{ROLLOUT}.seed": 1}),
    "reward_function": (("m", "f"), {"reward.custom_reward_function.path": "pkg://m",
                                     "reward.custom_reward_function.name": "f"}),
    "agent_loop_manager": ("m.Manager", {f"{ROLLOUT}.agent.agent_loop_manager_class": "m.Manager"}),
    "chat_template": ({"enable_thinking": False}, {"data.apply_chat_template_kwargs": None,
                                                   "data.apply_chat_template_kwargs.enable_thinking": False}),
    "verl_overrides": ({"trainer.save_freq": 3, "ours.new": 1}, {"trainer.save_freq": 3, "ours.new": 1}),
}  # fmt: skip
ELSEWHERE = {"name", "imports", "hardware"}
"""The run's own names, and hardware, which has tests of its own."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    with composed_once():
        yield


@pytest.fixture(scope="module")
def before(quick):
    return verl_values(JOB)


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_changes_exactly_its_keys(before, field):
    value, expected = CHANGES[field]
    assert difference(before, verl_values(dataclasses.replace(JOB, **{field: value}))) == expected


def test_every_field_is_accounted_for():
    assert CHANGES.keys() | ELSEWHERE == {field.name for field in dataclasses.fields(TrainingJob)}


def test_an_expert_is_plain_grpo(before):
    expected = {
        "algorithm.adv_estimator": "grpo",
        "distillation.enabled": False,
        f"{ACTOR}.use_kl_loss": False,
        f"{ACTOR}.loss_agg_mode": "token-mean",
        f"{ACTOR}.ppo_epochs": 1,
        f"{ROLLOUT}.agent.agent_loop_manager_class": "trainer.agent_loop.LoudAgentLoopManager",
        f"{ROLLOUT}.temperature": 1.0,
        "reward.custom_reward_function.path": "pkg://teachers.rewards",
        "reward.custom_reward_function.name": "compute_score",
        "trainer.resume_mode": "auto",
        "trainer.max_actor_ckpt_to_keep": 2,
        "trainer.v1.sampler.custom_sampler.name": "StrictReplayBuffer",
        "critic.enable": False,
    }
    assert {key: before[key] for key in expected} == expected


@pytest.mark.parametrize("rollouts, at_once", [((1, 2), 8), ((32, 8), 256), ((512, 8), 256), ((5, 4), 20)])
def test_a_cpus_engine_holds_so_many_sequences_and_no_more(rollouts, at_once):
    """121 tokens are 4 cache blocks of 32."""
    prompts, samples = rollouts
    found = verl_values(dataclasses.replace(JOB, prompts_per_step=prompts, samples_per_prompt=samples))
    assert found[f"{ROLLOUT}.max_num_seqs"] == at_once
    assert found[f"{ROLLOUT}.engine_kwargs.vllm.num_gpu_blocks_override"] == at_once * 4 + 8


def test_the_context_has_room_for_the_token_that_scoring_adds():
    assert JOB.context_tokens == 72 + 48 + 1
    assert JOB.checkpoints == Path("/build/checkpoints")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_batch_always_holds_a_whole_sequence(device):
    job = dataclasses.replace(JOB, hardware=Hardware(device=device), max_response_tokens=20000)
    assert verl_values(job)[f"{ROLLOUT}.max_num_batched_tokens"] == 20073
