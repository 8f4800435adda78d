"""Whether the declared rewards can judge the routed prompts, asked before an expert is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.load import ConfigError
from configs.prompts import ReasoningGymPrompts
from configs.rewards import grader_settings, needs_answer, reward_title

if TYPE_CHECKING:
    from configs.schema import MergeConfig
    from routing.routers import RoutedPrompt

JUDGES_GENERATED = ("reasoning_gym", "python")
"""Kinds of reward that read what the prompt source `reasoning_gym` has for an answer."""


def check_rewards(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> None:
    """Raises ConfigError, one message a domain, for a reward that does not work on its domain's prompts.

    Runs the user's own functions on probe texts, with the answer of the first prompt.
    """
    problems = []
    for name in config.domains:
        rows = [item for item in routed if item.domain == name]
        try:
            problem = _problem(config, name, rows)
        except ConfigError as error:
            problem = "; ".join(error.problems)
        if problem:
            problems.append(f"domains.{name}.reward: {problem}")
    if problems:
        raise ConfigError(*problems)


def _problem(config: MergeConfig, name: str, rows: Sequence[RoutedPrompt]) -> str:
    """What is wrong with a domain's reward; empty if nothing is."""
    from eval.answer_graders import unusable_answer, unusable_grader

    domain = config.domains[name]
    reward = domain.reward
    kind = reward if isinstance(reward, str) else reward.kind
    if isinstance(domain.prompts, ReasoningGymPrompts) and kind not in JUDGES_GENERATED:
        return (
            f"{reward_title(reward)!r} cannot judge prompts of reasoning_gym; "
            f"{{kind: reasoning_gym, task: {domain.prompts.task}}} can"
        )
    if isinstance(reward, str):
        return ""
    settings = grader_settings(reward)
    answered = [item for item in rows if item.prompt.answer is not None]
    if needs_answer(reward):
        for item in answered:
            if problem := unusable_answer(settings, item.prompt.answer):
                return f"{item.prompt.where}: {problem}"
    if needs_answer(reward) and not answered:
        return ""  # such prompts are only watched, and count 0
    return unusable_grader(settings, answered[0].prompt.answer if answered else None)
