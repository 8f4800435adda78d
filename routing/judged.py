"""The rows of the polish: the prompts that rewards can judge, mixed as the merge's are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from common.errors import ConfigError
from configs.blocks.rewards import Reward, needs_answer, reward_title
from configs.polish import Polish
from configs.schema import MergeConfig
from routing.mix import Mix, mix
from routing.routers.decisions import RoutedPrompt
from routing.trained_rows import check_written


def can_be_judged(item: RoutedPrompt, reward: Reward) -> bool:
    """Whether the reward can judge answers to this prompt."""
    return item.prompt.answer is not None or not needs_answer(reward)


def polish_counts(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> dict[str, int]:
    """Rows of each domain in the polish; a domain that is absent is left out. Empty without a polish."""
    if (polish := config.polish) is None:
        return {}
    return _mix(config, routed).counts(polish.steps, polish.prompts_per_step)


def polish_rows(config: MergeConfig, polish: Polish, routed: Sequence[RoutedPrompt]) -> list[RoutedPrompt]:
    """All rows of the polish, in reading order."""
    rows = _mix(config, routed).rows(polish.steps, polish.prompts_per_step)
    check_written(Counter(row.domain for row in rows), polish_counts(config, routed))
    return rows


def check_polish(config: MergeConfig, polish: Polish, routed: Sequence[RoutedPrompt]) -> None:
    """Raises ConfigError for a polish without a prompt, or with a domain that has prompts and gets no row."""
    counts = polish_counts(config, routed)
    if not counts:
        needing = ", ".join(f"{name} ({reward_title(d.reward)})" for name, d in config.domains.items())
        raise ConfigError(
            "polish: it trains on rewards, and no prompt of any domain has the answer that its reward needs: "
            f"{needing}; give prompts with answers, or leave `polish` out"
        )
    for domain, rows in counts.items():
        if not rows:
            raise ConfigError(
                f"polish: domain {domain!r} would have none of its {polish.steps * polish.prompts_per_step} "
                f"rows (steps {polish.steps}, prompts_per_step {polish.prompts_per_step}); raise either, or "
                "give the domain a larger share (mixing)"
            )


def left_out(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> list[str]:
    """What the polish leaves out for want of answers, one sentence a domain."""
    every, judged = (Counter(item.domain for item in items) for items in (routed, _judged(config, routed)))
    sentences = []
    for name, domain in config.domains.items():
        missing, needs = (
            every[name] - judged[name],
            f"an answer, which reward {reward_title(domain.reward)!r} needs",
        )
        if missing and not judged[name]:
            sentences.append(f"polish: domain {name} is left out: none of its {missing} prompts has {needs}")
        elif missing:
            sentences.append(f"polish: {missing} of {every[name]} prompts of {name} lack {needs}: left out")
    return sentences


def _judged(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> list[RoutedPrompt]:
    return [item for item in routed if can_be_judged(item, config.domains[item.domain].reward)]


def _mix(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> Mix:
    return mix(_judged(config, routed), config.mixing, config.training.seed)
