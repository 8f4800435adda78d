"""From a `TrainingJob` to verl's configuration.

Only keys whose value differs from verl's default, or that the job decides, stand here; the reason is
beside each one that is not obvious.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import Hardware
from trainer.engine.attention import attention_of
from trainer.engine.names import EXTERNAL_LIB, WITHOUT_OLD_ENTROPY
from trainer.job import Lora, TrainingJob
from trainer.settings.defaults import PPO, default_config
from trainer.settings.owned import CHAT_TEMPLATES
from trainer.tracking import PROJECT

if TYPE_CHECKING:
    from omegaconf import DictConfig

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"


def verl_config(job: TrainingJob, metrics_name: str) -> DictConfig:
    """verl's full configuration of this job, with interpolations intact.

    Imports neither verl nor torch.
    """
    ours = {**_training(job, metrics_name), **_lora(job), **_device(job), **job.verl_overrides}
    return laid_over(default_config(PPO), ours, job.verl_settings)


def laid_over(config: DictConfig, *settings: Mapping[str, Any]) -> DictConfig:
    """The configuration with settings by dotted key, the later ones over the earlier ones."""
    from omegaconf import OmegaConf, open_dict

    with open_dict(config):
        for key, value in (item for part in settings for item in part.items()):
            OmegaConf.update(config, key, value, force_add=True)
    return config


def _training(job: TrainingJob, metrics_name: str) -> dict[str, Any]:
    reward_module, reward_name = job.reward_function
    return {
        "trainer.project_name": PROJECT,
        "trainer.experiment_name": metrics_name,
        "trainer.logger": ["file"],
        "trainer.total_training_steps": job.steps,
        "trainer.total_epochs": job.steps,  # never the limit: `steps` is
        "trainer.save_freq": save_steps(job.hardware, job.save_every, job.steps),
        "trainer.max_actor_ckpt_to_keep": 2,  # verl deletes before it writes: one must survive a kill
        "trainer.default_local_dir": str(job.checkpoints),
        "trainer.resume_mode": "auto",
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "data.train_files": [str(job.train_file)],
        "data.val_files": [str(job.train_file)],  # verl loads one even where it never validates
        "data.val_max_samples": 1,
        "data.train_batch_size": job.prompts_per_step,
        "data.max_prompt_length": job.max_prompt_tokens,
        "data.max_response_length": job.max_response_tokens,
        "data.shuffle": False,  # the rows are scheduled: every step holds its share of every domain
        "data.dataloader_num_workers": 0,  # so that a resumed run reads on exactly where it stopped
        "data.seed": job.seed,
        "data.apply_chat_template_kwargs": dict(job.chat_template),
        **(
            {CHAT_TEMPLATES: {k: dict(v) for k, v in job.chat_templates.items()}}
            if job.chat_templates
            else {}
        ),
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        "critic.enable": False,
        "reward.num_workers": 0,  # our agent loop workers compute the reward themselves
        "reward.custom_reward_function.path": f"pkg://{reward_module}",
        "reward.custom_reward_function.name": reward_name,
        "actor_rollout_ref.model.path": job.model_path,
        f"{ACTOR}.checkpoint.save_contents": CHECKPOINTS[job.hardware.checkpoints],
        # a full checkpoint of an earlier attempt is read in full, whatever is stored now
        f"{ACTOR}.checkpoint.load_contents": CHECKPOINTS["full"],
        "actor_rollout_ref.model.external_lib": EXTERNAL_LIB,
        **({} if job.measure_entropy else {"actor_rollout_ref.model.model_type": WITHOUT_OLD_ENTROPY}),
        f"{ACTOR}.optim.lr": job.learning_rate,
        f"{ACTOR}.optim.lr_warmup_steps": job.warmup_steps,
        f"{ACTOR}.optim.lr_scheduler_type": job.schedule,
        f"{ACTOR}.optim.weight_decay": job.weight_decay,
        f"{ACTOR}.optim.clip_grad": job.gradient_clip,
        f"{ACTOR}.grad_clip": job.gradient_clip,
        f"{ACTOR}.ppo_mini_batch_size": job.prompts_per_step,  # one update a batch: strictly on-policy
        f"{ACTOR}.loss_agg_mode": job.loss_aggregation,
        f"{ACTOR}.data_loader_seed": job.seed,
        f"{ACTOR}.fsdp_config.seed": job.seed,
        f"{ACTOR}.use_dynamic_bsz": True,
        f"{ACTOR}.ppo_max_token_len_per_gpu": job.hardware.tokens_per_device,
        f"{ROLLOUT}.log_prob_use_dynamic_bsz": True,
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu": job.hardware.tokens_per_device,
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.n": job.samples_per_prompt,
        f"{ROLLOUT}.seed": job.seed,
        f"{ROLLOUT}.calculate_log_probs": True,
        f"{ROLLOUT}.max_model_len": job.context_tokens,
        f"{ROLLOUT}.agent.agent_loop_manager_class": job.agent_loop_manager,
        "trainer.v1.sampler.custom_sampler.path": "pkg://trainer.within.replay",
        "trainer.v1.sampler.custom_sampler.name": "StrictReplayBuffer",
    }


CHECKPOINTS = {"full": ["model", "optimizer", "extra"], "weights": ["model"]}
"""verl's names of what a checkpoint holds, by `hardware.checkpoints`."""


def save_steps(hardware: Hardware, save_every: int, steps: int) -> int:
    """Steps between checkpoints; weights alone continue nothing, so they are stored at the end only."""
    return save_every if hardware.checkpoints == "full" else steps


def _lora(job: TrainingJob) -> dict[str, Any]:
    if job.lora is None:
        return {}
    return {
        **adapter_settings(job.lora, "actor_rollout_ref.model", f"{ACTOR}.checkpoint"),
        # the rollout gets adapter and base as one model: vLLM's own LoRA kernels are not needed
        "actor_rollout_ref.model.lora.merge": True,
    }


def adapter_settings(lora: Lora, model: str, checkpoint: str) -> dict[str, Any]:
    """The adapter in sections of these names, which both of verl's trainers have."""
    began = {} if lora.start is None else {f"{model}.lora_adapter_path": lora.start}
    return {
        f"{model}.lora_rank": lora.rank,
        f"{model}.lora_alpha": lora.alpha,
        f"{checkpoint}.save_lora_only": True,
        **began,
    }


def _device(job: TrainingJob) -> dict[str, Any]:
    hardware = job.hardware
    shared = {
        "trainer.device": hardware.device,
        "trainer.n_gpus_per_node": hardware.gpus,
        "trainer.nnodes": hardware.nodes,
        f"{ACTOR}.strategy": "fsdp2",
        "actor_rollout_ref.ref.strategy": "fsdp2",
        f"{ACTOR}.ulysses_sequence_parallel_size": hardware.sequence_parallel,
        f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": hardware.sequence_parallel,
        f"{ROLLOUT}.tensor_model_parallel_size": hardware.rollout_tensor_parallel,
        "actor_rollout_ref.model.override_config.attn_implementation": attention_of(hardware.device),
        "actor_rollout_ref.model.use_remove_padding": True,  # micro-batches hold no padding
    }
    return {**shared, **(_cpu(job) if hardware.device == "cpu" else _cuda(job))}


def _cpu(job: TrainingJob) -> dict[str, Any]:
    """Why each of these is forced on a CPU is told in docs/how_it_works.md ("verl on a CPU")."""
    rollouts = job.prompts_per_step * job.samples_per_prompt
    sequences = job.hardware.rollout_sequences or max(8, min(256, rollouts))
    return {
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        f"{ACTOR}.use_torch_compile": False,
        f"{ACTOR}.fsdp_config.use_torch_compile": False,
        f"{ACTOR}.fsdp_config.model_dtype": "float32",
        f"{ACTOR}.fsdp_config.dtype": "float32",
        f"{ACTOR}.fsdp_config.mixed_precision.param_dtype": "fp32",
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype": "fp32",
        f"{ROLLOUT}.dtype": "float32",
        f"{ROLLOUT}.enforce_eager": True,
        f"{ROLLOUT}.free_cache_engine": False,
        f"{ROLLOUT}.enable_sleep_mode": False,
        f"{ROLLOUT}.gpu_memory_utilization": 0.1,
        f"{ROLLOUT}.max_num_seqs": sequences,
        f"{ROLLOUT}.max_num_batched_tokens": max(2048, job.context_tokens),
        # a tied embedding must reach vLLM in one load call, so one bucket holds the whole model
        f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": bucket_megabytes(job.model_path),
        f"{ROLLOUT}.engine_kwargs.vllm": _cpu_engine(sequences, job.context_tokens),
        f"{ROLLOUT}.agent.num_workers": 1,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }


def _cuda(job: TrainingJob) -> dict[str, Any]:
    """Of the defaults that verl keeps here, those are decisions: `enforce_eager`, `free_cache_engine`,
    `agent.num_workers`, and `max_num_batched_tokens` with chunked prefill (docs/composed_config.md)."""
    hardware = job.hardware
    settings: dict[str, Any] = {
        # verl's default, kept on purpose: without it the activations of every layer stay in memory
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        f"{ACTOR}.fsdp_config.param_offload": hardware.offload == "all",
        f"{ACTOR}.fsdp_config.optimizer_offload": hardware.offload in ("optimizer", "all"),
        f"{ROLLOUT}.gpu_memory_utilization": hardware.rollout_memory_fraction,
        # weights are sent in float32: room for an embedding of 152k x 7k numbers
        f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": 4096,
    }
    if hardware.rollout_sequences is not None:
        settings[f"{ROLLOUT}.max_num_seqs"] = hardware.rollout_sequences
    if hardware.rollout_quantization != "none":
        settings[f"{ROLLOUT}.quantization"] = hardware.rollout_quantization
    return settings


KV_BLOCK_TOKENS = 32
"""Cache block on a CPU; vLLM's own 128 there wastes most of each block on short sequences."""


def _cpu_engine(sequences: int, context_tokens: int) -> dict[str, Any]:
    """vLLM's cache for so many sequences at once and no more (it is resident), in one process."""
    blocks = sequences * -(-context_tokens // KV_BLOCK_TOKENS) + 8
    return {
        "block_size": KV_BLOCK_TOKENS,
        "num_gpu_blocks_override": blocks,
        "distributed_executor_backend": "uni",
    }


def bucket_megabytes(model_path: str) -> int:
    """Room for the whole model as float32, in MiB, and never under 16.

    The largest tensor counts twice: a tied output layer is sent beside its embedding, though the model's
    files hold it once.
    """
    from safetensors import safe_open

    sizes = []
    for file in Path(model_path).glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            sizes += [math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()]  # noqa: SIM118
    needed = 4 * (sum(sizes) + max(sizes, default=0))
    # numbers in a file of torch's own have two bytes at least
    needed += sum(4 * file.stat().st_size for file in Path(model_path).glob("*.bin"))
    return max(16, needed // 2**20 + 1)


def inference_settings(
    hardware: Hardware, max_prompt_tokens: int, max_response_tokens: int, tensor_parallel: int
) -> dict[str, Any]:
    """Settings of one teacher server of verl's pool, on `tensor_parallel` devices (they do not inherit from
    the student's rollout)."""
    context = max_prompt_tokens + max_response_tokens + 1
    settings: dict[str, Any] = {
        "name": "vllm",
        "tensor_model_parallel_size": tensor_parallel,
        "load_format": "auto",
        "prompt_length": max_prompt_tokens,
        "response_length": max_response_tokens,
        "max_model_len": context,
        "max_num_batched_tokens": TEACHER_BATCH_TOKENS,
        "gpu_memory_utilization": hardware.rollout_memory_fraction,
    }
    if hardware.device == "cpu":
        settings |= {
            "dtype": "float32",
            "enforce_eager": True,
            "enable_sleep_mode": False,
            "free_cache_engine": False,
            "max_num_seqs": CPU_TEACHER_SEQUENCES,
            "gpu_memory_utilization": 0.1,
            "engine_kwargs": {"vllm": _cpu_engine(CPU_TEACHER_SEQUENCES, context)},
        }
    return settings


TEACHER_BATCH_TOKENS = 2048
"""Tokens that a teacher's server reads at once; vLLM cuts longer prompts into such chunks.

For each chunk it makes logits and their log-probabilities of the whole vocabulary, memory that it does not
count when it sizes its cache: about 10 bytes a token and vocabulary entry, 3 GiB for Qwen3's 151,936.
"""

CPU_TEACHER_SEQUENCES = 64
"""Sequences that a teacher's server on a CPU scores at once."""
