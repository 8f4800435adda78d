"""Who teaches a domain, as declared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from configs.blocks.strict import PositiveInt, Seed, Strict
from configs.served import Endpoint
from configs.verl_settings import VerlSettings


class RLExpert(Strict):
    """An expert built here: GRPO on the domain's prompts, from the student or from a `base` of its own."""

    kind: Literal["rl"]
    base: str | None = None
    """Model folder or hub name that its reinforcement learning starts from, such as a larger model; by
    default the student, whose tokenizer, EOS and chat template it must share."""
    steps: PositiveInt = 500
    """GRPO steps."""
    prompts_per_step: PositiveInt = 128
    """Prompts in a step."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Rollouts of one prompt: the group that GRPO compares."""
    learning_rate: PositiveFloat = 1e-6
    """AdamW's constant learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to its value."""
    max_response_tokens: PositiveInt | None = None
    """Rollout length limit; by default that of `training`."""
    save_every: PositiveInt = 20
    """Steps between checkpoints; a stopped build continues from the last one."""
    seed: Seed = 42
    """Seed of prompt order and sampling."""
    lora_rank: PositiveInt | None = None
    """Train a LoRA adapter of this rank on all linear layers; by default all weights are trained."""
    lora_alpha: PositiveInt | None = None
    """The adapter's scale is `lora_alpha / lora_rank`; by default twice the rank."""
    verl: VerlSettings = Field({})
    """Further settings of verl's for this build, laid over the top-level `verl`; other settings make another
    expert, unless they only move, watch or store."""

    @model_validator(mode="after")
    def _alpha_needs_a_rank(self) -> RLExpert:
        if self.lora_alpha is not None and self.lora_rank is None:
            raise ValueError("lora_alpha is read with lora_rank only; give lora_rank, or leave it out")
        if self.base is not None and self.lora_rank is not None:
            raise ValueError("an adapter lies on the student: leave out either lora_rank or base")
        return self


class ModelExpert(Strict):
    """An expert the user already has: a folder or hub name of a full model."""

    kind: Literal["model"]
    path: str
    """Model folder or hub name; must share tokenizer, EOS and chat template with the student."""
    base: str | None = None
    """The model that it was before its reinforcement learning, for `objective.reference: teacher_base`."""


class AdapterExpert(Strict):
    """An expert the user already has: a LoRA adapter on the student, in peft's format."""

    kind: Literal["adapter"]
    path: str
    """Adapter folder (`adapter_config.json` and its weights) or hub name; it must have been trained on the
    student's own weights."""


class RegisteredExpert(Strict):
    """An expert of the registry, built or imported: a full model, or an adapter on the student."""

    kind: Literal["registered"]
    id: Annotated[str, Field(min_length=1)]
    """Its id, or a beginning that only it has; `protege experts list` shows them."""
    base: str | None = None
    """The model that it was before its reinforcement learning, for `objective.reference: teacher_base`; by
    default where its record says that this model is."""


class ServedExpert(Endpoint):
    """An expert that a server holds (vLLM's, or one with the same API): it is asked there for the
    log-probabilities of every rollout of the domain. For `objective.estimator: sampled`."""

    kind: Literal["served"]
    path: str | None = None
    """Folder or hub name of the same model, for what reads it: baselines made of weights, `sft`, probes and
    the router `agreement`. The report's answers are sampled from it where it is given, else by the server."""
    base: str | None = None
    """The model that it was before its reinforcement learning, for `objective.reference: teacher_base`."""


Expert = Annotated[
    RLExpert | ModelExpert | AdapterExpert | RegisteredExpert | ServedExpert, Field(discriminator="kind")
]
