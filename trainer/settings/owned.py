"""Which of verl's keys Protege sets itself, and which key of ours decides them.

A key stands for everything below it. What is in none of these tables is the user's, even where Protege has a
default of its own for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
CHAT_TEMPLATES = "protege.chat_templates"
"""Key of ours in verl's config: all arguments of the chat template, of each domain that has its own. verl
itself has one set for all rows; `trainer.within.agent_loop` reads these."""
MODEL, LOSS = "actor_rollout_ref.model", "distillation.distillation_loss"

RECIPE: Mapping[str, str] = {
    "trainer.total_training_steps": "steps",
    "trainer.total_epochs": "steps",
    "trainer.save_freq": "save_every",
    "data.train_batch_size": "prompts_per_step",
    "data.max_prompt_length": "max_prompt_tokens",
    "data.max_response_length": "max_response_tokens",
    "data.filter_overlong_prompts": "too_long",
    "data.truncation": "too_long",
    "data.seed": "seed",
    f"{ROLLOUT}.n": "samples_per_prompt",
    f"{ROLLOUT}.seed": "seed",
    f"{ROLLOUT}.prompt_length": "max_prompt_tokens",
    f"{ROLLOUT}.response_length": "max_response_tokens",
    f"{ROLLOUT}.max_model_len": "max_response_tokens",
    f"{ACTOR}.data_loader_seed": "seed",
    f"{ACTOR}.fsdp_config.seed": "seed",
    f"{ACTOR}.grad_clip": "gradient_clip",
    f"{ACTOR}.loss_agg_mode": "loss_aggregation",
    f"{ACTOR}.optim.lr": "learning_rate",
    f"{ACTOR}.optim.lr_warmup_steps": "warmup_steps",
    f"{ACTOR}.optim.lr_warmup_steps_ratio": "warmup_steps",
    f"{ACTOR}.optim.lr_scheduler_type": "schedule",
    f"{ACTOR}.optim.total_training_steps": "steps",
    f"{ACTOR}.optim.weight_decay": "weight_decay",
    f"{ACTOR}.optim.clip_grad": "gradient_clip",
    f"{MODEL}.lora_rank": "lora_rank",
    f"{MODEL}.lora_alpha": "lora_alpha",
}
"""Keys of a training's recipe: our name, in `training` or in the block of the expert or baseline."""

SFT_RECIPE: Mapping[str, str] = {
    "trainer.total_training_steps": "steps",
    "trainer.total_epochs": "steps",
    "trainer.save_freq": "save_every",
    "data.train_batch_size": "prompts_per_step",
    "optim.lr": "learning_rate",
    "optim.lr_warmup_steps": "warmup_steps",
    "optim.lr_warmup_steps_ratio": "warmup_steps",
    "optim.lr_scheduler_type": "schedule",
    "optim.total_training_steps": "steps",
    "optim.weight_decay": "weight_decay",
    "optim.clip_grad": "gradient_clip",
    "model.lora_rank": "lora_rank",
    "model.lora_alpha": "lora_alpha",
    "engine.seed": "seed",
}
"""The same of verl's SFT trainer."""

CONFIG: Mapping[str, str] = {
    "trainer.device": "hardware.device",
    "trainer.nnodes": "hardware.nodes",
    "trainer.n_gpus_per_node": "hardware.gpus",
    "trainer.logger": "tracking",
    "data.apply_chat_template_kwargs": "chat_template",
    "ray_kwargs": "hardware.ray_address",
    f"{ACTOR}.calculate_entropy": "metrics.entropy",
    f"{MODEL}.path": "student",
    f"{ACTOR}.ppo_max_token_len_per_gpu": "hardware.tokens_per_device",
    f"{ACTOR}.ulysses_sequence_parallel_size": "hardware.sequence_parallel",
    f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": "hardware.sequence_parallel",
    f"{ACTOR}.fsdp_config.param_offload": "hardware.offload",
    f"{ACTOR}.fsdp_config.optimizer_offload": "hardware.offload",
    f"{ACTOR}.checkpoint.save_contents": "hardware.checkpoints",
    f"{ACTOR}.checkpoint.load_contents": "hardware.checkpoints",
    f"{ROLLOUT}.gpu_memory_utilization": "hardware.rollout_memory_fraction",
    f"{ROLLOUT}.tensor_model_parallel_size": "hardware.rollout_tensor_parallel",
    f"{ROLLOUT}.max_num_seqs": "hardware.rollout_sequences",
    f"{ROLLOUT}.nnodes": "hardware.rollout_gpus",
    f"{ROLLOUT}.n_gpus_per_node": "hardware.rollout_gpus",
    f"{ROLLOUT}.quantization": "hardware.rollout_quantization",
    "reward": "domains.<name>.reward",
    "reward_model": "domains.<name>.reward",
    "custom_reward_function": "domains.<name>.reward",
    "sandbox_fusion": "domains.<name>.reward",
    # of the SFT trainer
    "model.path": "student",
    "data.max_token_len_per_gpu": "hardware.tokens_per_device",
    "engine.ulysses_sequence_parallel_size": "hardware.sequence_parallel",
    "engine.param_offload": "hardware.offload",
    "engine.optimizer_offload": "hardware.offload",
    "checkpoint.save_contents": "hardware.checkpoints",
    "checkpoint.load_contents": "hardware.checkpoints",
}
"""Keys that a key of the config sets, of every training."""

ROWS = "the rows are read, checked and scheduled beforehand (prompts, mixing)"
NAMES = "metrics and checkpoints are found in the run's folder by it"
ENGINE = "training runs on FSDP2 with packed sequences, whose micro-batches are cut by tokens"
ADAPTER = "an adapter is exported from its checkpoint, which holds nothing else"
BEGINNING = "an adapter begins as a new one, or where the training before it ended"
SAMPLER = "answers are sampled by verl's asynchronous vLLM server, one turn each"

FIXED: Mapping[str, str] = {
    "trainer.project_name": NAMES,
    "trainer.experiment_name": NAMES,
    "trainer.default_local_dir": NAMES,
    "trainer.resume_mode": "the same command continues what was interrupted",
    "trainer.resume_from_path": "the same command continues what was interrupted",
    "trainer.max_actor_ckpt_to_keep": "one checkpoint must survive a kill while the next is written",
    "trainer.max_ckpt_to_keep": "one checkpoint must survive a kill while the next is written",
    "trainer.val_before_train": "models are compared on the domains' benchmarks, after the training",
    "trainer.val_only": "models are compared on the domains' benchmarks, after the training",
    "trainer.test_freq": "models are compared on the domains' benchmarks, after the training",
    "trainer.use_v1": "the trainer is verl's synchronous one, or training.overlap's",
    "trainer.v1": "it is the synchronous trainer, or training.overlap's; its replay buffer fails at once",
    "critic": "no critic is trained",
    "distillation": "objective, scorer and the experts set it",
    "transfer_queue.enable": "verl's V1 trainer moves its data by it",
    "data.train_files": ROWS,
    "data.val_files": ROWS,
    "data.val_max_samples": ROWS,
    "data.train_max_samples": ROWS,
    "data.shuffle": ROWS,
    "data.sampler": ROWS,
    "data.custom_cls": ROWS,
    "data.gen_batch_size": ROWS,
    "data.dataloader_num_workers": ROWS,
    f"{ACTOR}.strategy": ENGINE,
    f"{ACTOR}.fsdp_config.strategy": ENGINE,
    "actor_rollout_ref.ref.strategy": ENGINE,
    f"{MODEL}.external_lib": ENGINE,
    f"{MODEL}.model_type": ENGINE,
    f"{MODEL}.use_remove_padding": ENGINE,
    f"{ACTOR}.use_remove_padding": ENGINE,
    f"{ACTOR}.use_dynamic_bsz": ENGINE,
    f"{ACTOR}.ppo_micro_batch_size": ENGINE,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": ENGINE,
    f"{ROLLOUT}.log_prob_use_dynamic_bsz": ENGINE,
    f"{ROLLOUT}.log_prob_micro_batch_size": ENGINE,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": ENGINE,
    "engine.strategy": ENGINE,
    "model.external_lib": ENGINE,
    "model.use_remove_padding": ENGINE,
    "data.use_dynamic_bsz": ENGINE,
    "data.micro_batch_size_per_gpu": ENGINE,
    f"{ACTOR}.checkpoint.save_lora_only": ADAPTER,
    f"{MODEL}.lora": "the rollout gets adapter and base as one model",
    f"{MODEL}.lora_adapter_path": BEGINNING,
    "checkpoint.save_lora_only": ADAPTER,
    "model.lora": "it is of trainings with a rollout, or with Megatron",
    "model.lora_adapter_path": BEGINNING,
    f"{ROLLOUT}.name": SAMPLER,
    f"{ROLLOUT}.mode": SAMPLER,
    f"{ROLLOUT}.multi_turn": SAMPLER,
    f"{ROLLOUT}.calculate_log_probs": SAMPLER,
    f"{ROLLOUT}.agent.agent_loop_manager_class": SAMPLER,
    f"{ROLLOUT}.agent.default_agent_loop": SAMPLER,
}
"""Keys that nothing may change, and why."""

OBJECTIVE = "it belongs to the merge's objective"

MERGE_FIXED: Mapping[str, str] = {
    "algorithm": OBJECTIVE,
    f"{ACTOR}.clip_ratio": OBJECTIVE,
    f"{ACTOR}.clip_ratio_low": OBJECTIVE,
    f"{ACTOR}.clip_ratio_high": OBJECTIVE,
    f"{ACTOR}.clip_ratio_c": OBJECTIVE,
    f"{ACTOR}.policy_loss": OBJECTIVE,
    f"{ACTOR}.entropy_coeff": OBJECTIVE,
    f"{ACTOR}.use_kl_loss": OBJECTIVE,
    f"{ACTOR}.kl_loss_coef": OBJECTIVE,
    f"{ACTOR}.kl_loss_type": OBJECTIVE,
    f"{ACTOR}.loss_scale_factor": OBJECTIVE,
    f"{ACTOR}.ppo_epochs": "one update is made from each batch",
    f"{ACTOR}.ppo_mini_batch_size": "one update is made from each batch",
    f"{ROLLOUT}.temperature": "log-probabilities are compared at temperature 1",
    f"{ROLLOUT}.top_k": "log-probabilities are those of the whole distribution",
    f"{ROLLOUT}.top_p": "log-probabilities are those of the whole distribution",
}
"""Keys that the merge's method rests on; an expert, and the baseline `grpo`, may have them."""

NEUTRAL = (
    "global_profiler",
    "transfer_queue",
    "trainer.ray_wait_register_center_timeout",
    "trainer.log_val_generations",
    "trainer.rollout_data_dir",
    "actor_rollout_ref.nccl_timeout",
    f"{MODEL}.use_shm",
    f"{MODEL}.enable_activation_offload",
    f"{ACTOR}.profiler",
    f"{ACTOR}.checkpoint",
    f"{ACTOR}.fsdp_config.forward_prefetch",
    f"{ACTOR}.fsdp_config.reshard_after_forward",
    f"{ACTOR}.fsdp_config.offload_policy",
    f"{ROLLOUT}.agent.num_workers",
    f"{ROLLOUT}.checkpoint_engine",
    f"{ROLLOUT}.disable_log_stats",
    f"{ROLLOUT}.free_cache_engine",
    f"{ROLLOUT}.profiler",
    f"{ROLLOUT}.prometheus",
    f"{ROLLOUT}.trace",
)
"""Keys that move, watch or store, and compute nothing: weights do not depend on them."""


def entry(table: Mapping[str, str], key: str) -> str | None:
    """What a table says of a key, or of a section that holds it."""
    return next((text for name, text in table.items() if covers(name, key)), None)


def covers(name: str, key: str) -> bool:
    """Whether a key is this one or lies below it."""
    return key == name or key.startswith(f"{name}.")


def weight_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings (dotted) that may change the weights of a training: all but those known not to."""
    return {key: value for key, value in settings.items() if not any(covers(name, key) for name in NEUTRAL)}
