"""Whether prompts have the answers that rewards need, wherever something is trained on rewards."""

from __future__ import annotations

from common.errors import ConfigError
from configs.blocks.rewards import needs_answer, reward_title
from configs.schema import MergeConfig
from merging.baselines.kinds import TRAINED
from merging.checks.found import Preflight
from merging.expert_kinds.kinds import experts_of
from routing.prompt_state import UNDECIDED
from routing.routers.decisions import RoutedPrompt


def answers(found: Preflight) -> None:
    """Refuses prompts without the answer that a reward needs which trains an expert, `grpo` or the merge."""
    config, experts = found.config, experts_of(found.config)
    judged = [f"`{b.kind}`" for b in config.trained_baselines() if TRAINED[b.kind].needs_answers]
    verified = {name for name in config.domains if config.verifiable_of(name).kind != "none"}
    for item in found.left:
        if item.prompt.answer is not None:
            continue
        if item.domain == UNDECIDED:
            _check_open_one(config, item, judged, verified)
            continue
        built, reward = experts[item.domain].reads(item), config.domains[item.domain].reward
        if (built or judged) and needs_answer(reward):
            trained = "the expert" if built else f"baseline {judged[0]} on the prompts"
            raise ConfigError(
                f"{item.prompt.where}: no answer, and reward {reward_title(reward)!r} needs "
                f"one to train {trained} of domain {item.domain!r}"
            )
        if item.domain in verified and needs_answer(reward):
            raise ConfigError(
                f"{item.prompt.where}: no answer, and reward {reward_title(reward)!r} needs one for "
                f"objective.verifiable: {config.verifiable_of(item.domain).kind}; give answers, or set "
                f"domains.{item.domain}.objective.verifiable: none"
            )


def _check_open_one(config: MergeConfig, item: RoutedPrompt, judged: list[str], verified: set[str]) -> None:
    """Refused now and not when the experts are built: any domain may turn out to be the prompt's."""
    needing = [name for name, domain in config.domains.items() if needs_answer(domain.reward)]
    if judged and needing:
        raise ConfigError(
            f"{item.prompt.where}: no label and no answer, and baseline {judged[0]} needs one where the "
            f"domain is {needing[0]!r} (reward {reward_title(config.domains[needing[0]].reward)!r})"
        )
    if strict := [name for name in needing if name in verified]:
        raise ConfigError(
            f"{item.prompt.where}: no label and no answer, and objective.verifiable: "
            f"{config.verifiable_of(strict[0]).kind} needs one where the domain is {strict[0]!r} (reward "
            f"{reward_title(config.domains[strict[0]].reward)!r}); set "
            f"domains.{strict[0]}.objective.verifiable: none"
        )


def experts_prompts(found: Preflight) -> None:
    """Refuses experts that have no prompt to be built on."""
    routing = found.config.routing
    wanted = "labelled prompts" if routing.decides_late else "prompts with an answer"
    problems = [
        f"{expert.place}: it is built on its domain's {wanted}, and there is none (routing: {routing.kind})"
        for expert in found.experts(found.config).values()
        if expert.is_built and not any(map(expert.reads, expert.prompts))
    ]
    if problems:
        raise ConfigError(*problems)
