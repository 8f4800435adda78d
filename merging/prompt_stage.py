"""From the declared sources to prompts with a domain: read, routed, and which ones experts are built on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.baselines import GrpoBaseline
from configs.experts import RLExpert
from configs.load import ConfigError
from configs.rewards import needs_answer, reward_title
from configs.routing import AgreementRouting
from configs.schema import MergeConfig
from merging import prompt_data
from merging.agreement_file import decisions_key, read_decisions
from merging.prompt_data import Dropped
from routing.routers import Routed, RoutedPrompt, refuse_bare_domains, route, with_decisions

UNDECIDED = "undecided"
"""Stands for the domain of prompts that are decided on once the experts are there."""


@dataclass(frozen=True)
class PromptStage:
    """All prompts of a config, each once: routed, undecided or dropped."""

    routed: list[RoutedPrompt] = field(default_factory=list)
    """Undecided prompts stand among them, with the domain `UNDECIDED`."""
    dropped: list[Dropped] = field(default_factory=list)
    measured: Mapping[str, Any] | None = None
    """What the router tells of itself, see `routing.routers.Decisions`."""


def read_prompts(config: MergeConfig, run_dir: Path) -> PromptStage:
    """Reads and routes the prompts of a config; raises ConfigError."""
    from routing.sources import collect_prompts

    found = collect_prompts(config)
    routing = with_stored_decisions(
        route(found.prompts, config.routing, list(config.domains)), config, run_dir
    )
    open_ones = [RoutedPrompt(prompt, UNDECIDED, "not decided yet") for prompt in routing.undecided]
    routed, twins = prompt_data.without_labelled_twins([*routing.prompts, *open_ones])
    dropped = [*prompt_data.unrouted(routing.dropped), *twins]
    dropped += prompt_data.duplicates(found.repeated, routed)
    return PromptStage(routed, dropped, routing.measured)


def with_stored_decisions(routing: Routed, config: MergeConfig, run_dir: Path) -> Routed:
    """The routing with the decisions that an earlier command of this run made; raises ConfigError."""
    decisions = (
        read_decisions(run_dir, decisions_key(config), routing.undecided) if routing.undecided else None
    )
    if decisions is None:
        return routing
    return with_decisions(routing.prompts, routing.undecided, decisions, config.routing)


def split(routed: Sequence[RoutedPrompt]) -> tuple[list[RoutedPrompt], list[RoutedPrompt]]:
    """(prompts with a domain, undecided ones)."""
    decided = [item for item in routed if item.domain != UNDECIDED]
    return decided, [item for item in routed if item.domain == UNDECIDED]


def is_for_expert(config: MergeConfig, item: RoutedPrompt) -> bool:
    """Whether the prompt is one that its domain's expert is built on.

    One without a label is not, where it lacks an answer that the reward needs, and where its domain is found
    out from the experts: an expert is the same before and after that.
    """
    if item.prompt.has_label:
        return True
    if isinstance(config.routing, AgreementRouting):
        return False
    return item.prompt.answer is not None or not needs_answer(config.domains[item.domain].reward)


def unanswered(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> dict[str, int]:
    """By domain, how many prompts its expert is not built on for want of an answer."""
    if isinstance(config.routing, AgreementRouting):
        return {}  # it is built on none without a label, answer or not
    return dict(
        Counter(
            item.domain
            for item in routed
            if isinstance(config.domains[item.domain].expert, RLExpert) and not is_for_expert(config, item)
        )
    )


def check_answers(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> None:
    """What is trained on rewards here needs an answer: an expert to its domain's prompts, `grpo` to all.

    Raises ConfigError.
    """
    grpo = any(isinstance(baseline, GrpoBaseline) for baseline in config.baselines)
    for item in routed:
        if item.domain == UNDECIDED:
            _check_open_answer(config, item, grpo)
            continue
        built = isinstance(config.domains[item.domain].expert, RLExpert) and is_for_expert(config, item)
        reward = config.domains[item.domain].reward
        if item.prompt.answer is None and (built or grpo) and needs_answer(reward):
            trained = "the expert" if built else "baseline `grpo` on the prompts"
            raise ConfigError(
                f"{item.prompt.where}: no answer, and reward {reward_title(reward)!r} needs "
                f"one to train {trained} of domain {item.domain!r}"
            )


def _check_open_answer(config: MergeConfig, item: RoutedPrompt, grpo: bool) -> None:
    """Refused now and not when the experts are built: any domain may turn out to be the prompt's."""
    needing = [name for name, domain in config.domains.items() if needs_answer(domain.reward)]
    if grpo and item.prompt.answer is None and needing:
        raise ConfigError(
            f"{item.prompt.where}: no label and no answer, and baseline `grpo` needs one where the domain is "
            f"{needing[0]!r} (reward {reward_title(config.domains[needing[0]].reward)!r})"
        )


def check_experts_prompts(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> None:
    """Raises ConfigError, one message a domain, for an expert that has no prompt to be built on."""
    built_on = Counter(item.domain for item in routed if is_for_expert(config, item))
    wanted = "labelled prompts" if isinstance(config.routing, AgreementRouting) else "prompts with an answer"
    problems = [
        f"domains.{name}.expert: it is built on its domain's {wanted}, and there is none (routing: "
        f"{config.routing.kind})"
        for name, domain in config.domains.items()
        if isinstance(domain.expert, RLExpert) and not built_on[name]
    ]
    if problems:
        raise ConfigError(*problems)


def check_decided(config: MergeConfig, routed: Sequence[RoutedPrompt], dropped: Sequence[Dropped]) -> None:
    """The checks that need every prompt's domain; raises ConfigError."""
    from merging.probe import check_prompts

    counts = {domain: sum(item.domain == domain for item in routed) for domain in config.domains}
    if not dropped:
        refuse_bare_domains(counts, list(config.domains))
    prompt_data.check_mix(config, routed, dropped)
    check_prompts(config, routed)
