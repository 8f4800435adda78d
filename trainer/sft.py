"""Supervised fine-tuning by verl's own SFT trainer: the job, verl's configuration of it, its launch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Hardware
from trainer.tracking import PROJECT


@dataclass(frozen=True)
class SftJob:
    """One supervised fine-tuning by verl's `SFTTrainer`, in one pass over the rows, which it shuffles."""

    name: str
    model_path: str
    train_file: Path
    """Parquet with `prompt_ids` and `response_ids` (lists of token ids); `steps * rows_per_step` rows."""
    folder: Path
    """Holds `checkpoints/` and `metrics.jsonl`, as that of a `TrainingJob`."""
    steps: int
    rows_per_step: int
    learning_rate: float
    save_every: int
    seed: int
    hardware: Hardware
    warmup_steps: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.01
    gradient_clip: float = 1.0

    @property
    def checkpoints(self) -> Path:
        """verl's checkpoint folder."""
        return self.folder / "checkpoints"


def sft_config(job: SftJob, metrics_name: str):
    """verl's full configuration of this job (an OmegaConf DictConfig)."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf, open_dict

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(config_name="sft_trainer_engine")
    with open_dict(config):
        for key, value in {**_training(job, metrics_name), **_device(job)}.items():
            OmegaConf.update(config, key, value, force_add=True)
    return config


def launch_sft(config):
    """Starts verl's SFT trainer in an actor of its own; returns the actor and the pending result."""
    from trainer.sft_runner import SftRunner

    runner = SftRunner.remote()
    return runner, runner.run.remote(config)


def _training(job: SftJob, metrics_name: str) -> dict[str, Any]:
    return {
        "trainer.project_name": PROJECT,
        "trainer.experiment_name": metrics_name,
        "trainer.logger": ["file"],
        "trainer.total_training_steps": job.steps,
        "trainer.total_epochs": 1,
        "trainer.save_freq": job.save_every,
        "trainer.test_freq": -1,
        "trainer.max_ckpt_to_keep": 2,  # one must survive a kill while the next is written
        "trainer.default_local_dir": str(job.checkpoints),
        "trainer.resume_mode": "auto",
        "data.train_files": [str(job.train_file)],
        "data.train_batch_size": job.rows_per_step,
        "data.use_dynamic_bsz": True,
        "data.max_token_len_per_gpu": job.hardware.tokens_per_device,
        "data.custom_cls.path": "pkg://trainer.sft_runner",
        "data.custom_cls.name": "TokenRows",
        "model.path": job.model_path,
        "optim.lr": job.learning_rate,
        "optim.lr_warmup_steps": job.warmup_steps,
        "optim.lr_scheduler_type": job.schedule,
        "optim.weight_decay": job.weight_decay,
        "optim.clip_grad": job.gradient_clip,
        "engine.seed": job.seed,
    }


def _device(job: SftJob) -> dict[str, Any]:
    """As `trainer.overrides` has it for `main_ppo`, where the reasons stand."""
    hardware = job.hardware
    shared = {
        "trainer.device": hardware.device,
        "trainer.n_gpus_per_node": hardware.gpus,
        "trainer.nnodes": hardware.nodes,
        "engine.strategy": "fsdp2",
        "model.override_config.attn_implementation": "sdpa",
        "model.use_remove_padding": False,
    }
    if hardware.device != "cpu":
        return shared
    return {
        **shared,
        "model.external_lib": "trainer.cpu_engines",
        "model.enable_gradient_checkpointing": False,
        "engine.use_torch_compile": False,
        "engine.model_dtype": "float32",
        "engine.dtype": "float32",
        "engine.mixed_precision.param_dtype": "fp32",
    }
