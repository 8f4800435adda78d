"""Validation prompts: read as training prompts are, of one domain each, and trained on by nothing."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from common.words import counted
from configs.blocks.rewards import reward_title
from configs.schema import MergeConfig
from routing.judged import can_be_judged
from routing.kept import BenchmarkProblem
from routing.lengths import prompts_above
from routing.overlap import check as overlapping
from routing.prompt_state import check_system_prompts, modes_asked
from routing.routers.by_label import labelled_domain
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt, load_prompts


def declared_prompts(config: MergeConfig, domain: str) -> list[Prompt] | None:
    """The domain's own validation prompts; None where it declares none. Raises ConfigError."""
    source = config.domains[domain].validation
    if source is None:
        return None
    prompts = load_prompts(source, domain, label_field=config.routing.field)
    for prompt in prompts:
        labelled_domain(prompt, config.routing.field, list(config.domains), "validation")
    check_system_prompts(config, (RoutedPrompt(prompt, domain, "validation") for prompt in prompts))
    return prompts


@dataclass(frozen=True)
class Asked:
    """Validation prompts, and what is said of them."""

    rows: tuple[RoutedPrompt, ...] = ()
    notes: tuple[str, ...] = ()


def validation_prompts(
    config: MergeConfig,
    trained: Iterable[RoutedPrompt],
    problems: Sequence[BenchmarkProblem],
    endings: Collection[str],
    student: Path,
) -> Asked:
    """What a validation asks, by domain in the config's order, and what the user should know of it.

    `trained` may be trained on, `problems` are the benchmarks', `endings` instructions after the text of
    either. Raises ConfigError for what the config refuses, and for a domain of which no prompt is left.
    """
    known = {_messages(item) for item in trained}
    rows = []
    notes = [
        f"domain {name} has no validation prompts, so validations leave it out"
        for name in config.domains
        if name not in config.validated()
    ]
    for domain in config.validated():
        kept = _Kept(config, domain)
        kept.with_answers()
        kept.not_trained_on(known)
        kept.not_in_benchmarks(problems, endings)
        kept.short(student)
        kept.check_some_are_left()
        rows += kept.sample()
        notes += kept.notes
    return Asked(tuple(rows), tuple(notes))


class _Kept:
    """The validation prompts of one domain, with fewer left after each step."""

    def __init__(self, config: MergeConfig, domain: str) -> None:
        self.config, self.domain, self.place = config, domain, f"domains.{domain}.validation"
        prompts = declared_prompts(config, domain) or []
        self.left = [RoutedPrompt(prompt, domain, "validation") for prompt in prompts]
        self.declared, self.gone, self.notes = len(prompts), [], []

    def _leave_out(self, gone: Collection[int], why: str) -> None:
        """Those whose ids (`id`) are given."""
        if gone:
            self.gone.append(f"{len(gone)} {why}")
            self.notes.append(f"{self.place}: {counted(len(gone), 'prompt')} left out: {why}")
        self.left = [item for item in self.left if id(item) not in gone]

    def with_answers(self) -> None:
        """Without those that the domain's reward cannot judge."""
        reward = self.config.domains[self.domain].reward
        gone = {id(item) for item in self.left if not can_be_judged(item, reward)}
        self._leave_out(gone, f"without an answer, which reward {reward_title(reward)!r} needs")

    def not_trained_on(self, known: Collection[object]) -> None:
        """Without those whose messages are trained on: their accuracy would be that of what was practised."""
        gone = {id(item) for item in self.left if _messages(item) in known}
        self._leave_out(gone, "among the training prompts too")

    def not_in_benchmarks(self, problems: Sequence[BenchmarkProblem], endings: Collection[str]) -> None:
        """As `overlap` says. Where validations choose the weights, or what is trained on, a repeated problem
        is refused as well: the student would be chosen by what then judges it."""
        overlap, training = self.config.overlap, self.config.training
        plans = self.config.mixing.kind == "gap"
        prompts = [item.prompt for item in self.left]
        found = overlapping(prompts, [problem.text for problem in problems], overlap.ngram, endings)
        if not found:
            return
        first = problems[found[0].problem]
        said = f"repeat problems of benchmarks, such as {first.id} of {first.benchmark}"
        if overlap.action == "drop":
            repeated = {id(item.prompt) for item in found}
            self._leave_out({id(item) for item in self.left if id(item.prompt) in repeated}, f"that {said}")
            return
        said = f"{self.place}: {len(found)} of its {counted(self.declared, 'prompt')} {said}"
        reasons = {
            "validations choose the student's weights": training.chooses_by_validation,
            "validations decide the domains' shares (mixing: gap)": plans,
            "overlap.action: refuse": overlap.action == "refuse",
        }
        if why := next((reason for reason, holds in reasons.items() if holds), None):
            raise ConfigError(f"{said}, and {why}; leave them out, or set overlap.action: drop")
        self.notes.append(f"{said}; accuracies of validations and benchmarks are not independent")

    def short(self, student: Path) -> None:
        """Without those above the length limit, as `training.too_long` says."""
        training = self.config.training
        limit, modes = training.max_prompt_tokens, modes_asked(self.config)
        long = list(prompts_above(self.left, student, modes, limit))
        if long and training.too_long == "refuse":
            tokens, item = max(long, key=lambda pair: pair[0])
            raise ConfigError(
                f"{item.prompt.where}: the prompt has {tokens} tokens with the chat template (the longest of "
                f"{self.place}), above training.max_prompt_tokens = {limit}; training.too_long: drop leaves "
                "such prompts out"
            )
        self._leave_out({id(item) for _, item in long}, f"above training.max_prompt_tokens = {limit}")

    def check_some_are_left(self) -> None:
        """Raises ConfigError."""
        if not self.left:
            raise ConfigError(
                f"{self.place}: none of its {counted(self.declared, 'prompt')} is left for "
                f"training.validate_every ({'; '.join(self.gone)}); give others, or leave the block out"
            )

    def sample(self) -> list[RoutedPrompt]:
        """At most `training.validation_limit` of them, by the seed, in their order."""
        training = self.config.training
        drawn = random.Random(f"validation:{training.seed}:{self.domain}")
        places = drawn.sample(range(len(self.left)), min(training.validation_limit, len(self.left)))
        return [self.left[place] for place in sorted(places)]


def _messages(item: RoutedPrompt) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in item.prompt.messages)
