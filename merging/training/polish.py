"""The polish: GRPO from the distilled student on all domains at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.polish import Polish
from configs.schema import MergeConfig
from merging.state.adapted import begins_at
from merging.state.polished import polish_tokens
from merging.training.rewarded import check_same_rewards, train_on_rewards
from teachers.build import grpo_job
from trainer.job import TrainingJob

if TYPE_CHECKING:
    from merging.state.cluster import Cluster
    from merging.state.run_folder import RunFolder

NAME = "polish"
"""Of the stage, its job and its metrics."""


def polish_student(folder: RunFolder, polish: Polish, cluster: Cluster) -> None:
    """Trains the distilled student on, or continues, and exports the student.

    Raises ConfigError for rewards that are not the merge's, and common.errors.RunFailed.
    """
    check_same_rewards(folder, NAME)
    job = polish_job(folder.config, polish, folder.distilled, folder.polish_prompts, folder.polish)
    train_on_rewards(folder, job, folder.polish_rows(), f"{NAME} (GRPO)", cluster, folder.student)


def polish_job(
    config: MergeConfig, polish: Polish, model: Path, train_file: Path, work: Path, **changed: Any
) -> TrainingJob:
    """An expert's job, from `model` on the rows of the file, which is trained on as the adapter or full model
    that it is; `changed` are fields other than the polish's."""
    recipe = {
        "name": NAME,
        "steps": polish.steps,
        "prompts_per_step": polish.prompts_per_step,
        "samples_per_prompt": polish.samples_per_prompt,
        "learning_rate": polish.learning_rate,
        "warmup_steps": polish.warmup_steps,
        "save_every": polish.save_every,
        "max_prompt_tokens": config.training.max_prompt_tokens,
        "max_response_tokens": polish_tokens(config, polish),
        "seed": config.training.seed,
        "verl_settings": config.verl_settings(polish),
    }
    return grpo_job(config, train_file, work, **{**recipe, **begins_at(config, model), **changed})
