"""A plain training job (an expert's): every field of it arrives in verl's configuration."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest

from configs.schema import Hardware
from tests.helpers.paths import STUDENT
from tests.helpers.verl_configs import composed_once, difference, verl_values
from trainer.engine import attention
from trainer.job import Lora, TrainingJob
from trainer.overrides import inference_settings

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
    "lora": (Lora(4, 9, "/begun"), {"actor_rollout_ref.model.lora_adapter_path": "/begun",
                          "actor_rollout_ref.model.lora_rank": 4, "actor_rollout_ref.model.lora_alpha": 9,
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
    "measure_entropy": (False, {"actor_rollout_ref.model.model_type": "language_model_without_old_entropy"}),
    "agent_loop_manager": ("m.Manager", {f"{ROLLOUT}.agent.agent_loop_manager_class": "m.Manager"}),
    "chat_template": ({"enable_thinking": False}, {"data.apply_chat_template_kwargs": None,
                                                   "data.apply_chat_template_kwargs.enable_thinking": False}),
    "chat_templates": ({"math": {"think": True}}, {"protege.chat_templates.math.think": True}),
    "verl_overrides": ({"trainer.save_freq": 3, "ours.new": 1}, {"trainer.save_freq": 3, "ours.new": 1}),
    "verl_settings": ({f"{ACTOR}.optim.betas": [0, 0.5], f"{ROLLOUT}.engine_kwargs.vllm.x.y": 1},
                      {f"{ACTOR}.optim.betas": [0, 0.5], f"{ROLLOUT}.engine_kwargs.vllm.x.y": 1}),
}  # fmt: skip
ELSEWHERE = {"name", "imports", "hardware", "validation"}
"""The run's own names, and hardware and validations, which have tests of their own."""


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
        f"{ROLLOUT}.agent.agent_loop_manager_class": "trainer.within.agent_loop.LoudAgentLoopManager",
        f"{ROLLOUT}.temperature": 1.0,
        "reward.custom_reward_function.path": "pkg://teachers.rewards",
        "reward.custom_reward_function.name": "compute_score",
        "trainer.resume_mode": "auto",
        "trainer.max_actor_ckpt_to_keep": 2,
        "trainer.v1.sampler.custom_sampler.name": "StrictReplayBuffer",
        "critic.enable": False,
    }
    assert {key: before[key] for key in expected} == expected


def test_modules_that_verl_is_told_to_load_are_there(before):
    told = {value for value in before.values() if isinstance(value, str) and value.startswith("pkg://")}
    assert told == {"pkg://teachers.rewards", "pkg://trainer.within.replay"}
    assert [name for name in told if find_spec(name.removeprefix("pkg://")) is None] == []


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
def test_sequences_are_packed_and_the_engine_is_ours(device):
    found = verl_values(dataclasses.replace(JOB, hardware=Hardware(device=device)))
    model = "actor_rollout_ref.model"
    assert found[f"{model}.use_remove_padding"] is True
    assert found[f"{model}.override_config.attn_implementation"] == "packed_sdpa"
    assert found[f"{model}.external_lib"] == "trainer.engine.registered"
    assert f"{model}.model_type" not in found, "verl's own default, language_model"
    assert found[f"{model}.enable_gradient_checkpointing"] is (device == "cuda")
    assert found[f"{model}.use_fused_kernels"] is False


def test_flash_attention_is_chosen_on_cuda_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(attention, "installed_version", {"flash-attn": "2.8.3"}.get)
    for device, expected in (("cuda", "flash_attention_2"), ("cpu", "packed_sdpa")):
        found = verl_values(dataclasses.replace(JOB, hardware=Hardware(device=device)))
        assert found["actor_rollout_ref.model.override_config.attn_implementation"] == expected


def test_the_users_settings_lie_over_all_of_ours():
    job = dataclasses.replace(
        JOB, verl_overrides={"trainer.save_freq": 3}, verl_settings={"trainer.save_freq": 7}
    )
    assert verl_values(job)["trainer.save_freq"] == 7


# ---------------------------------------------------------------------------------------- hardware


def on(device: str, **hardware) -> dict:
    """verl's values for 20,000 tokens of answer on this hardware."""
    return verl_values(
        dataclasses.replace(JOB, hardware=Hardware(device=device, **hardware), max_response_tokens=20000)
    )


def test_one_batch_on_a_cpu_holds_a_whole_sequence_and_on_gpus_chunks_of_one():
    """So the memory of a batch on a GPU does not grow with the context."""
    cpu, cuda = on("cpu"), on("cuda")
    assert cpu[f"{ROLLOUT}.max_num_batched_tokens"] == 20073
    assert cuda[f"{ROLLOUT}.max_num_batched_tokens"] == 8192
    assert cuda[f"{ROLLOUT}.enable_chunked_prefill"] is True


HARDWARE = {
    "offload=optimizer": {f"{ACTOR}.fsdp_config.optimizer_offload": True},
    "offload=all": {f"{ACTOR}.fsdp_config.optimizer_offload": True,
                    f"{ACTOR}.fsdp_config.param_offload": True},
    "sequence_parallel=4": {f"{ACTOR}.ulysses_sequence_parallel_size": 4,
                            f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 4},
    "rollout_sequences=96": {f"{ROLLOUT}.max_num_seqs": 96},
    "rollout_quantization=fp8": {f"{ROLLOUT}.quantization": "fp8"},
    "checkpoints=weights": {f"{ACTOR}.checkpoint.save_contents": ["model"], "trainer.save_freq": 45},
    "rollout_memory_fraction=0.6": {f"{ROLLOUT}.gpu_memory_utilization": 0.6},
    "rollout_tensor_parallel=2": {f"{ROLLOUT}.tensor_model_parallel_size": 2},
    "tokens_per_device=999": {f"{ACTOR}.ppo_max_token_len_per_gpu": 999,
                              f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 999},
    "gpus=8": {"trainer.n_gpus_per_node": 8},
    "nodes=2": {"trainer.nnodes": 2},
}  # fmt: skip
OF_OTHER_PARTS = {
    *("device", "ray_address", "scorer_gpus", "rollout_gpus", "device_kind", "price_per_device_hour"),
    *("stall", "probe_cache_gib"),
}
"""The device changes many keys, Ray is started before, servers of the pool and devices that only sample are
in the merge's job, the plan reads what a device is and costs, the launcher and the probe the rest."""


@pytest.mark.parametrize("setting", HARDWARE)
def test_a_hardware_setting_changes_exactly_its_keys(setting):
    name, _, value = setting.partition("=")
    given = type(getattr(Hardware(), name) or 0)(value)
    assert difference(on("cuda"), on("cuda", **{name: given})) == HARDWARE[setting]


def test_every_hardware_setting_is_accounted_for():
    named = {setting.partition("=")[0] for setting in HARDWARE}
    assert named | OF_OTHER_PARTS == Hardware.model_fields.keys()


def test_a_full_checkpoint_of_before_is_read_in_full():
    full = ["model", "optimizer", "extra"]
    assert on("cuda", checkpoints="weights")[f"{ACTOR}.checkpoint.load_contents"] == full


def test_a_cpus_engine_holds_as_many_answers_as_it_is_told():
    found = verl_values(dataclasses.replace(JOB, hardware=Hardware(device="cpu", rollout_sequences=12)))
    assert found[f"{ROLLOUT}.max_num_seqs"] == 12
    assert found[f"{ROLLOUT}.engine_kwargs.vllm.num_gpu_blocks_override"] == 12 * 4 + 8


@pytest.mark.parametrize("setting", ["offload", "rollout_quantization"])
def test_what_is_for_gpus_is_refused_on_a_cpu(setting):
    value = {"offload": "all", "rollout_quantization": "fp8"}[setting]
    with pytest.raises(ValueError, match=f"{setting}: {value} is for GPUs; leave it out on a CPU"):
        Hardware(device="cpu", **{setting: value})


def test_a_teachers_server_makes_the_logits_of_a_chunk_and_not_of_a_whole_answer():
    """2,048 tokens of 151,936 entries at 10 bytes are 2.9 GiB, and 18,433 would be 26 GiB."""
    settings = inference_settings(Hardware(device="cuda"), 2048, 16384, tensor_parallel=4)
    assert settings["max_num_batched_tokens"] * 151_936 * 10 < 3 * 2**30
    assert 18_433 * 151_936 * 10 > 26 * 2**30
    assert settings["max_model_len"] == 18_433
