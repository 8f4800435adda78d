"""The polish: a short reinforcement learning after distillation, as declared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from configs.blocks.strict import PositiveInt, Strict
from configs.verl_settings import VerlSettings


class Polish(Strict):
    """GRPO from the distilled student on all domains at once, each answer judged by the `reward` of its
    domain; the distilled student is kept and evaluated as `distilled`. Domains share a step as `mixing` says;
    prompts without an answer that their reward needs are left out. Its seed and its limit of a prompt are
    those of `training`, the rest is an expert's recipe."""

    steps: PositiveInt = 20
    """GRPO steps."""
    prompts_per_step: PositiveInt = 128
    """Prompts in a step, over all domains."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Rollouts of one prompt: the group that GRPO compares."""
    learning_rate: PositiveFloat = 1e-6
    """AdamW's constant learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to its value."""
    max_response_tokens: PositiveInt | None = None
    """Rollout length limit; by default that of `training`."""
    save_every: PositiveInt = 10
    """Steps between checkpoints; a stopped polish continues from the last one."""
    verl: VerlSettings = Field({})
    """Further settings of verl's for the polish, laid over the top-level `verl`."""
