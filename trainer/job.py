"""What one verl training is: the whole input of `trainer.run.train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from configs.blocks.experts import RLExpert
from configs.schema import Hardware, Training
from trainer.validation import Validation


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter on all linear layers but the output layer."""

    rank: int
    alpha: int
    """Its product counts `alpha / rank` times."""
    start: str | None = None
    """Folder of an adapter of this rank and alpha on the same model, in peft's format, at whose weights the
    training begins; None for a new one, which adds nothing until it is trained."""


@dataclass(frozen=True)
class TrainingJob:
    """One reinforcement-learning or distillation training by verl's `main_ppo`.

    Lengths are in tokens. `verl_overrides` are further keys of verl's config (dotted), laid over ours;
    the objective comes in through them, so this package knows nothing of it.
    """

    name: str
    model_path: str
    train_file: Path
    """verl-format parquet; read in order, one pass (its rows are already scheduled)."""
    folder: Path
    """Holds `checkpoints/`, `verl/` (raw metrics) and `log.txt`."""
    steps: int
    prompts_per_step: int
    samples_per_prompt: int
    learning_rate: float
    max_prompt_tokens: int
    max_response_tokens: int
    save_every: int
    seed: int
    hardware: Hardware
    reward_function: tuple[str, str]
    """(module, function) with verl's custom-reward signature."""
    lora: Lora | None = None
    """Train this adapter only; None trains all weights."""
    warmup_steps: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    loss_aggregation: str = "token-mean"
    agent_loop_manager: str = "trainer.within.agent_loop.LoudAgentLoopManager"
    chat_template: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, of rows whose domain has none of its own."""
    chat_templates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """All arguments by domain, of the domains that have their own; `data_source` is a row's domain."""
    measure_entropy: bool = True
    """Whether the pass before the update measures the entropy of the next token."""
    imports: tuple[str, ...] = ()
    """Modules that register something with verl and must be loaded where the trainer is chosen."""
    validation: Validation | None = None
    """What is validated while the job trains, by default nothing; its trainer is one of ours
    (`trainer.within.own_mode`)."""
    verl_overrides: Mapping[str, Any] = field(default_factory=dict)
    verl_settings: Mapping[str, Any] = field(default_factory=dict)
    """The user's own keys of verl's config (dotted), laid over everything."""

    @property
    def checkpoints(self) -> Path:
        """verl's checkpoint folder."""
        return self.folder / "checkpoints"

    @property
    def context_tokens(self) -> int:
        """Longest sequence: prompt, response, and the one token of headroom that scoring asks for."""
        return self.max_prompt_tokens + self.max_response_tokens + 1


def merge_settings(job: type, training: Training) -> dict[str, Any]:
    """All settings of the merge's training that a job of this type has too, its adapter included."""
    names = [field.name for field in fields(job) if field.name in Training.model_fields]
    return {name: getattr(training, name) for name in names} | {"lora": lora_of(training)}


def lora_of(declared: Training | RLExpert) -> Lora | None:
    """The adapter that the block asks for; None where all weights are trained."""
    rank, alpha = declared.lora_rank, declared.lora_alpha
    return None if rank is None else Lora(rank, 2 * rank if alpha is None else alpha)
