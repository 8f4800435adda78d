"""Supervised fine-tuning by verl's own SFT trainer: the job, verl's configuration of it, its launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import Hardware
from trainer.engine.attention import attention_of
from trainer.engine.names import EXTERNAL_LIB
from trainer.job import Lora
from trainer.overrides import CHECKPOINTS, adapter_settings, laid_over, save_steps
from trainer.settings.defaults import SFT, default_config
from trainer.tracking import PROJECT

if TYPE_CHECKING:
    from omegaconf import DictConfig

Launched = tuple[Any, Any]
"""The handle of the actor that trains, and the reference to its pending result."""


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
    lora: Lora | None = None
    """Train this adapter only; None trains all weights."""
    warmup_steps: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    verl_settings: Mapping[str, Any] = field(default_factory=dict)
    """The user's own keys of the configuration of verl's SFT trainer (dotted), laid over everything."""

    @property
    def checkpoints(self) -> Path:
        """verl's checkpoint folder."""
        return self.folder / "checkpoints"


def sft_config(job: SftJob, metrics_name: str) -> DictConfig:
    """verl's full configuration of this job."""
    adapter = {} if job.lora is None else adapter_settings(job.lora, "model", "checkpoint")
    ours = {**_training(job, metrics_name), **adapter, **_device(job)}
    return laid_over(default_config(SFT), ours, job.verl_settings)


def launch_sft(config: DictConfig) -> Launched:
    """Starts verl's SFT trainer in an actor of its own; returns the actor and the pending result."""
    from trainer.within.task_runner import SftRunner

    runner: Any = SftRunner.remote()
    return runner, runner.run.remote(config)


def _training(job: SftJob, metrics_name: str) -> dict[str, Any]:
    return {
        "trainer.project_name": PROJECT,
        "trainer.experiment_name": metrics_name,
        "trainer.logger": ["file"],
        "trainer.total_training_steps": job.steps,
        "trainer.total_epochs": 1,
        "trainer.save_freq": save_steps(job.hardware, job.save_every, job.steps),
        "trainer.test_freq": -1,
        "trainer.max_ckpt_to_keep": 2,  # one must survive a kill while the next is written
        "trainer.default_local_dir": str(job.checkpoints),
        "trainer.resume_mode": "auto",
        "checkpoint.save_contents": CHECKPOINTS[job.hardware.checkpoints],
        "checkpoint.load_contents": CHECKPOINTS["full"],
        "data.train_files": [str(job.train_file)],
        "data.train_batch_size": job.rows_per_step,
        "data.use_dynamic_bsz": True,
        "data.max_token_len_per_gpu": job.hardware.tokens_per_device,
        "data.custom_cls.path": "pkg://trainer.within.token_rows",
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
        "engine.ulysses_sequence_parallel_size": hardware.sequence_parallel,
        "model.external_lib": EXTERNAL_LIB,
        "model.override_config.attn_implementation": attention_of(hardware.device),
        "model.use_remove_padding": True,
        "model.enable_gradient_checkpointing": hardware.device != "cpu",
    }
    if hardware.device != "cpu":
        return {
            **shared,
            "engine.param_offload": hardware.offload == "all",
            "engine.optimizer_offload": hardware.offload in ("optimizer", "all"),
        }
    return {
        **shared,
        "engine.use_torch_compile": False,
        "engine.model_dtype": "float32",
        "engine.dtype": "float32",
        "engine.mixed_precision.param_dtype": "fp32",
    }
