"""The prompts that a probe or a validation answers, and whether every domain has one."""

from __future__ import annotations

import random
from collections.abc import Sequence

from common.errors import ConfigError
from common.words import counted
from configs.blocks.rewards import needs_answer, reward_title
from configs.schema import MergeConfig
from merging.checks.benchmarks import endings
from merging.checks.found import Preflight, needs_student
from merging.checks.rewards import unfit_for
from merging.expert_kinds.kind import ExpertKind
from routing.overlap import check as overlapping
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt
from routing.validation import declared_prompts, validation_prompts


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
    prompts = declared_prompts(config, domain) or []
    problems = [problem.text for problem in found.asked]
    if repeats := overlapping(prompts, problems, config.overlap.ngram, endings(config)):
        first = found.asked[repeats[0].problem]
        raise ConfigError(
            f"domains.{domain}.validation: {len(repeats)} of its {counted(len(prompts), 'prompt')} repeat "
            f"problems of benchmarks, such as {first.id} of {first.benchmark}, and reward_scale: auto would "
            "be chosen by what then judges the student; leave them out"
        )


@needs_student
def validations(found: Preflight) -> Preflight:
    """Refuses validation prompts that `training.validate_every` cannot use, or not honestly."""
    config = found.config
    if config.training.validate_every is None or not found.is_read:
        return found
    asked = validation_prompts(config, found.left, found.asked, endings(config), found.student)
    problems = []
    for name in config.validated():
        domain, rows = config.domains[name], [item for item in asked.rows if item.domain == name]
        if problem := unfit_for(domain.reward, domain.validation, rows):
            problems.append(f"domains.{name}.validation: {problem}")
    return found.refusing(*problems, validation=asked)


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
    prompts = declared_prompts(config, domain)
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
