"""What a polish adds to a run: the distilled student, and the size of its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.polish import Polish
from configs.schema import MergeConfig
from eval.report.data import DISTILLED
from merging.expert_kinds.kinds import experts_of

STUDENT = "student"
"""Name of the model and of its folder in the run's; `DISTILLED` is the other one's."""


def distilled_folder(run_dir: Path, config: MergeConfig) -> Path:
    """The model that distillation makes: the student itself, unless it is polished."""
    return run_dir / (STUDENT if config.polish is None else DISTILLED)


def polish_tokens(config: MergeConfig, polish: Polish) -> int:
    """Rollout length limit of the polish."""
    return polish.max_response_tokens or config.training.max_response_tokens


def polish_rollouts(polish: Polish) -> int:
    """Answers that the polish samples and judges."""
    return polish.steps * polish.prompts_per_step * polish.samples_per_prompt


def steps_of_opd_more(config: MergeConfig) -> int:
    """Steps of the baseline `opd_more`: as few of the merge's size as hold the polish's rollouts, so that it
    samples less than one step's rollouts more than the polish; 0 without one."""
    training = config.training
    each = training.prompts_per_step * training.samples_per_prompt
    return 0 if config.polish is None else -(-polish_rollouts(config.polish) // each)


@dataclass(frozen=True)
class Control:
    """How one domain's expert is trained on."""

    domain: str
    rows: int
    """The domain's rows in the polish; 0 while they are not known."""
    steps: int
    prompts_per_step: int
    samples_per_prompt: int
    response_tokens: int

    @property
    def name(self) -> str:
        """Of its job and its metrics."""
        return f"{self.domain}-teacher-more"

    @property
    def stage(self) -> str:
        """Of the stage, in plan and report."""
        return f"teacher_more {self.domain}"

    @property
    def rollouts(self) -> int:
        """Answers that it samples and judges."""
        return self.steps * self.prompts_per_step * self.samples_per_prompt


def controls(config: MergeConfig, rows: Mapping[str, int]) -> list[Control]:
    """Of every domain that the polish trains on with `rows` of it, and whose expert is built here; none
    where the config declares no `teacher_more`."""
    polish = config.polish
    if polish is None or config.teacher_more() is None:
        return []
    found = []
    for expert in experts_of(config).values():
        if expert.is_built and (count := rows.get(expert.domain, 0)):
            steps, size = steps_of(count, polish.steps)
            longest = expert.response_tokens or polish_tokens(config, polish)
            found.append(Control(expert.domain, count, steps, size, polish.samples_per_prompt, longest))
    return found


def steps_of(rows: int, steps: int) -> tuple[int, int]:
    """Steps and prompts of each for so many rows: the polish's steps where they divide the rows, else as few
    whole steps as hold them all. Fewer than a step's rows are read twice."""
    size = -(-rows // steps)
    return -(-rows // size), size
