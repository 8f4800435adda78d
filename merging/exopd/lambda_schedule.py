"""Lambda, and what follows from it: its value in every step of a training, and which models are read there.

Everything that needs lambda's value asks a `LambdaSchedule`: the training rows, the plan, the metrics, the
alarms and the report. Everything that needs to know which models it makes the objective read asks
`reads_teacher`, `reads_reference` or `models_read`, and over a whole training `models_ever_read`. The config
holds only what was declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from configs.blocks.objective import PAPER_REWARD_SCALE

if TYPE_CHECKING:
    from configs.schema import MergeConfig

Model = TypeVar("Model")


def reads_teacher(reward_scale: float) -> bool:
    """Whether A = lambda*(T - B) - (S - B) depends on T; at lambda 0 it does not."""
    return reward_scale != 0.0


def reads_reference(reward_scale: float) -> bool:
    """Whether A = lambda*(T - B) - (S - B) depends on B; at lambda 1 it does not."""
    return reward_scale != 1.0


def models_read(reward_scale: float, teacher: Model, reference: Model) -> list[Model]:
    """Those of the two that the objective reads at this lambda, the teacher first: both, or one."""
    sides = ((teacher, reads_teacher(reward_scale)), (reference, reads_reference(reward_scale)))
    return [model for model, is_read in sides if is_read]


@dataclass(frozen=True)
class LambdaSchedule:
    """Lambda of each domain in each step of one training. Steps count from 1."""

    scales: Mapping[str, float]
    """By domain: lambda once warmed up."""
    warmup_steps: int = 0
    """Steps over which lambda moves linearly from 1 to that."""
    one_from: Mapping[str, int] = field(default_factory=dict)
    """By domain that an alarm has backed off: the step from which lambda is 1, whatever else holds."""

    @classmethod
    def of(
        cls, config: MergeConfig, override: float | None = None, one_from: Mapping[str, int] | None = None
    ) -> LambdaSchedule:
        """The merge's schedule, or that of a baseline whose `override` holds for all domains in all steps.

        Every `auto` of the config must have been replaced by a number.
        """
        if override is not None:
            return cls(dict.fromkeys(config.domains, override), 0, one_from or {})
        declared = {domain: config.reward_scale_of(domain) for domain in config.domains}
        scales = {domain: scale for domain, scale in declared.items() if scale is not None}
        assert scales.keys() == declared.keys(), declared
        return cls(scales, config.objective.reward_scale_warmup_steps, one_from or {})

    def at(self, domain: str, step: int) -> float:
        """Lambda of this domain's rows in this step."""
        if step >= self.one_from.get(domain, math.inf):
            return 1.0
        if step > self.warmup_steps:
            return self.scales[domain]
        return 1.0 + (step - 1) / self.warmup_steps * (self.scales[domain] - 1.0)

    def in_step(self, step: int) -> dict[str, float]:
        """Lambda of every domain in this step."""
        return {domain: self.at(domain, step) for domain in self.scales}

    def settled(self) -> dict[str, float]:
        """Lambda of every domain behind warm-up and back-off, where a long enough training stays."""
        return {domain: 1.0 if domain in self.one_from else scale for domain, scale in self.scales.items()}

    def of_rows(self, domains: Sequence[str], prompts_per_step: int) -> list[float]:
        """Lambda of each row of a training file, from the rows' domains in reading order."""
        return [self.at(domain, 1 + place // prompts_per_step) for place, domain in enumerate(domains)]

    def spans(self, domain: str, steps: int) -> list[tuple[int, int]]:
        """First and last step of each part of a training of so many steps in which this domain's lambda is
        constant, or moves linearly; the parts follow one another and are as few as can be."""
        turns = (self.warmup_steps + 1 if self.warmup_steps else 0, self.one_from.get(domain, 1) - 1, steps)
        ends = sorted({min(turn, steps) for turn in turns if turn > 0})
        parts: list[tuple[int, int]] = []
        for before, last in pairwise([0, *ends]):
            joined = (*(parts[-1] if parts else ()), before + 1, last)
            if parts and len({self.at(domain, step) for step in joined}) == 1:
                parts[-1] = (joined[0], last)
            else:
                parts.append((before + 1, last))
        return parts


# ---------------------------------------------------------------------------- over a whole training


@dataclass(frozen=True)
class EverRead:
    """Domains, in the order of the config, whose models some step of a training reads."""

    teachers: tuple[str, ...]
    """Those whose teacher is read."""
    references: tuple[str, ...]
    """Those whose reference is read."""


def models_ever_read(schedule: LambdaSchedule, steps: int) -> EverRead:
    """What a training of so many steps reads; the scorer needs no other model.

    An alarm that backs a domain off adds none: it does so from a lambda above 1, which reads both, to 1.
    """
    every = range(1, steps + 1)
    return EverRead(
        tuple(d for d in schedule.scales if any(reads_teacher(schedule.at(d, step)) for step in every)),
        tuple(d for d in schedule.scales if any(reads_reference(schedule.at(d, step)) for step in every)),
    )


def read_by_trainings(config: MergeConfig) -> list[EverRead]:
    """What the merge reads, and each baseline that is the merge at another lambda.

    An `auto` that is not chosen yet counts as the paper's lambda, which reads both models.
    """
    declared = {domain: config.reward_scale_of(domain) for domain in config.domains}
    scales = {d: PAPER_REWARD_SCALE if scale is None else scale for d, scale in declared.items()}
    merge = LambdaSchedule(scales, config.objective.reward_scale_warmup_steps)
    others = [LambdaSchedule.of(config, baseline.reward_scale) for baseline in config.distilled_baselines()]
    return [models_ever_read(schedule, config.training.steps) for schedule in (merge, *others)]
