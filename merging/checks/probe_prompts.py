"""The prompts that a probe answers, and whether every domain has one."""

from __future__ import annotations

import random
from collections.abc import Sequence

from common.errors import ConfigError
from common.words import counted
from configs.blocks.rewards import needs_answer, reward_title
from configs.schema import MergeConfig
from merging.checks.benchmarks import endings
from merging.checks.found import Preflight
from merging.expert_kinds.kind import ExpertKind
from routing.overlap import check as overlapping
from routing.routers.by_label import labelled_domain
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt, load_prompts


def probe_prompts(found: Preflight) -> None:
    """Refuses `reward_scale: auto` in a domain without an answer, once every prompt has its domain."""
    if found.is_read and not found.undecided:
        for domain in found.config.domains:
            if found.config.reward_scale_of(domain) is None:
                prompts_of_probe(found.config, found.routed, domain, 1)
                _refuse_repeats(found, domain)


def _refuse_repeats(found: Preflight, domain: str) -> None:
    """Raises ConfigError for a `validation` that repeats benchmarks: lambda would be chosen by the problems
    that the student is then judged by."""
    config = found.config
    prompts = _validation(config, domain) or []
    problems = [problem.text for problem in found.asked]
    if repeats := overlapping(prompts, problems, config.overlap.ngram, endings(config)):
        first = found.asked[repeats[0].problem]
        raise ConfigError(
            f"domains.{domain}.validation: {len(repeats)} of its {counted(len(prompts), 'prompt')} repeat "
            f"problems of benchmarks, such as {first.id} of {first.benchmark}, and reward_scale: auto would "
            "be chosen by what then judges the student; leave them out"
        )


def _validation(config: MergeConfig, domain: str) -> list[Prompt] | None:
    """The domain's own validation prompts; None where it declares none. Raises ConfigError."""
    source = config.domains[domain].validation
    if source is None:
        return None
    prompts = load_prompts(source, domain, label_field=config.routing.field)
    for prompt in prompts:
        labelled_domain(prompt, config.routing.field, list(config.domains), "validation")
    return prompts


def check_probed(expert: ExpertKind) -> None:
    """Raises ConfigError for a teacher that a server holds, where no folder of it is given."""
    if not expert.has_weights:
        raise ConfigError(f"{expert.place}.path: a probe reads this teacher's weights; give their folder")


def prompts_of_probe(
    config: MergeConfig, routed: Sequence[RoutedPrompt], domain: str, most: int
) -> list[Prompt]:
    """At most so many answered prompts: of the domain's `validation`, else of those that it trains on.

    Raises ConfigError where there is none.
    """
    prompts = _validation(config, domain)
    if prompts is None:
        prompts = [item.prompt for item in routed if item.domain == domain]
    reward = config.domains[domain].reward
    answered = [prompt for prompt in prompts if prompt.answer is not None or not needs_answer(reward)]
    if not answered:
        raise ConfigError(
            f"domains.{domain}: no prompt has an answer, and the probe judges by reward "
            f"{reward_title(reward)!r}; give domains.{domain}.validation"
        )
    return random.Random(f"probe:{config.training.seed}:{domain}").sample(answered, min(most, len(answered)))
