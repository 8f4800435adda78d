"""The prompts of a config on their way from the sources to a training, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from common.errors import ConfigError
from configs.blocks.prompts import OverlapCheck
from configs.prompt_mode import distinct
from configs.schema import MergeConfig
from routing.kept import BenchmarkProblem, Dropped, Repeat, repeat_sentences
from routing.lengths import Modes, longest_prompts, prompts_above
from routing.overlap import check
from routing.routers.agreement_file import decisions_key, read_decisions
from routing.routers.decisions import UNROUTED, Decisions, Routed, RoutedPrompt
from routing.routers.route import route, with_decisions
from routing.sources.collect import collect_prompts

UNDECIDED = "undecided"
"""Stands for the domain of prompts that are decided on once the experts are there."""


@dataclass(frozen=True, kw_only=True)
class PromptState:
    """Every prompt of a config, once: routed, undecided or dropped.

    Each step returns a new state and raises ConfigError for what the config refuses.
    """

    is_read: bool = False
    """Whether the sources could be read and routed."""
    left: tuple[RoutedPrompt, ...] = ()
    """What may be trained on; undecided prompts are among them, with the domain `UNDECIDED`."""
    dropped: tuple[Dropped, ...] = ()
    """Prompts that were read and are not trained on."""
    conflicts: Mapping[str, int] = field(default_factory=dict)
    """How many prompts of a domain are in another one too, trained on or dropped."""
    overlaps: tuple[Repeat, ...] = ()
    """Prompts that repeat a problem of a benchmark, trained on or dropped."""
    longest_prompt: Mapping[str, int] = field(default_factory=dict)
    """Tokens of the longest prompt of each domain, chat template and system prompt included."""
    router: Mapping[str, Any] | None = None
    """What the router measured of itself, see `routing.routers.decisions.Decisions`."""

    @property
    def routed(self) -> tuple[RoutedPrompt, ...]:
        """Prompts that may be trained on and have a domain, before mixing."""
        return tuple(item for item in self.left if item.domain != UNDECIDED)

    @property
    def undecided(self) -> tuple[RoutedPrompt, ...]:
        """Prompts that may be trained on, and get their domain once the experts are there."""
        return tuple(item for item in self.left if item.domain == UNDECIDED)

    def counts(self) -> dict[str, int]:
        """Prompts of each domain that may be trained on."""
        return dict(Counter(item.domain for item in self.routed))

    def read(self, config: MergeConfig, run_dir: Path) -> Self:
        """The declared sources: read, without duplicates, routed by label and router."""
        found = collect_prompts(config)
        routing = route(found.prompts, config.routing, list(config.domains))
        stored = read_decisions(run_dir, decisions_key(config), routing.undecided)
        if routing.undecided and stored is not None:  # by an earlier command of this run
            routing = with_decisions(routing.prompts, routing.undecided, stored, config.routing)
        open_ones = (RoutedPrompt(prompt, UNDECIDED, "not decided yet") for prompt in routing.undecided)
        left = (*routing.prompts, *open_ones)
        read = replace(self, is_read=True, left=left, router=routing.measured)
        read = read._without([*_unrouted(routing), *_labelled_twins(left)])
        domain_of = {item.prompt.id: item.domain for item in read.left}
        return read._without(
            Dropped(
                item.prompt,
                domain_of.get(item.kept.id, UNROUTED),
                "duplicate",
                f"repeats {item.kept.where}" + ("" if item.same_answer else ", which has another answer"),
            )
            for item in found.repeated
        )

    def without_conflicts(self, action: str) -> Self:
        """Without prompts of several domains, as `conflicts` says: two teachers would score them."""
        first: dict[tuple, RoutedPrompt] = {}
        conflicting: dict[tuple, RoutedPrompt] = {}
        for item in self.left:
            key = _messages_key(item)
            if first.setdefault(key, item).domain != item.domain:
                conflicting.setdefault(key, item)
        if conflicting and action == "refuse":
            key, item = next(iter(conflicting.items()))
            raise ConfigError(
                f"{item.prompt.where}: domain {item.domain!r} has the same prompt as "
                f"{first[key].prompt.where}, which belongs to domain {first[key].domain!r}, so two teachers "
                "would score it "
                f"({len(conflicting)} such prompts); correct the labels, or set conflicts: drop, or keep"
            )
        gone = []
        for item in self.left:
            if (key := _messages_key(item)) in conflicting:
                other = first[key] if item.domain != first[key].domain else conflicting[key]
                detail = f"the same prompt in domain {other.domain}: {other.prompt.where}"
                gone.append(Dropped(item.prompt, item.domain, "conflict", detail))
        counts = dict(Counter(item.domain for item in gone))
        return self._without(gone if action == "drop" else (), conflicts=counts)

    def without_repeats(
        self, asked: Sequence[BenchmarkProblem], endings: Collection[str], overlap: OverlapCheck
    ) -> Self:
        """Without prompts that repeat a benchmark's problem, as `overlap` says.

        `endings` are instructions after the text of either.
        """
        domain_of = {id(item.prompt): item.domain for item in self.left}
        found = check(
            [item.prompt for item in self.left], [problem.text for problem in asked], overlap.ngram, endings
        )
        repeats = [Repeat(domain_of[id(item.prompt)], asked[item.problem], item) for item in found]
        if repeats and overlap.action == "refuse":
            advice = "overlap.action: refuse (`drop` leaves them out, `warn` trains on them)"
            raise ConfigError(*(f"{sentence}; {advice}" for sentence in repeat_sentences(repeats)))
        gone = [
            Dropped(
                item.overlap.prompt,
                item.domain,
                "overlap",
                f"{item.overlap.kind}: problem {item.problem.id} of benchmark {item.problem.benchmark}",
            )
            for item in (repeats if overlap.action == "drop" else ())
        ]
        return replace(self._without(gone), overlaps=tuple(repeats))

    def without_long(self, student: Path, config: MergeConfig) -> Self:
        """Without prompts above the length limit, as `training.too_long` says."""
        limit, modes = config.training.max_prompt_tokens, modes_asked(config)
        longest = longest_prompts(self.left, student, modes)
        over = {domain: found for domain, found in longest.items() if found[0] > limit}
        above = f"above training.max_prompt_tokens = {limit}"
        if over and config.training.too_long == "refuse":
            raise ConfigError(
                *(
                    f"{item.prompt.where}: the prompt has {tokens} tokens with the chat template (the "
                    f"longest of domain {domain!r}), {above}; training.too_long: drop leaves such prompts out"
                    for domain, (tokens, item) in over.items()
                )
            )
        short = self._without(
            Dropped(item.prompt, item.domain, "too long", f"{tokens} tokens with the chat template, {above}")
            for tokens, item in (prompts_above(self.left, student, modes, limit) if over else ())
        )
        longest = longest_prompts(short.left, student, modes) if over else longest
        return replace(short, longest_prompt={domain: tokens for domain, (tokens, _) in longest.items()})

    def decided(self, decisions: Decisions, config: MergeConfig) -> Self:
        """With a domain for every undecided prompt, or without it, as `routing.otherwise` says."""
        undecided = [item.prompt for item in self.undecided]
        routing = with_decisions(self.routed, undecided, decisions, config.routing)
        decided = replace(self, left=tuple(routing.prompts), router=decisions.measured)
        decided = decided._without(_unrouted(routing))
        domain_of = {id(item.prompt): item.domain for item in decided.left}
        overlaps = [
            replace(item, domain=domain_of.get(id(item.overlap.prompt), item.domain))
            for item in decided.overlaps
        ]
        return replace(decided, overlaps=tuple(overlaps))

    def _without(self, gone: Iterable[Dropped], **changes: Any) -> Self:
        """Without these prompts, and without their repeats of benchmark problems."""
        gone = tuple(gone)
        ids = {id(item.prompt) for item in gone}
        left = tuple(item for item in self.left if id(item.prompt) not in ids)
        overlaps = tuple(item for item in self.overlaps if id(item.overlap.prompt) not in ids)
        return replace(self, left=left, dropped=(*self.dropped, *gone), overlaps=overlaps, **changes)


def modes_asked(config: MergeConfig) -> Modes:
    """In which mode each domain's prompts are asked; those that are undecided, in that of any domain."""
    modes = config.prompt_modes()
    return {**{name: [mode] for name, mode in modes.items()}, UNDECIDED: distinct(modes)}


def check_system_prompts(config: MergeConfig, prompts: Iterable[RoutedPrompt]) -> None:
    """Raises ConfigError, one message a domain, for prompts with a system message of their own in a domain
    that has one (`domains.<name>.system_prompt`): which of them counts, nobody said."""
    modes = config.prompt_modes()
    clashing: dict[str, list[RoutedPrompt]] = {}
    for item in prompts:
        able = modes if item.domain == UNDECIDED else [item.domain]
        if (
            owner := next((name for name in able if not modes[name].takes(item.prompt.messages)), None)
        ) is not None:
            clashing.setdefault(owner, []).append(item)
    problems = [
        f"{items[0].prompt.where}: the prompt has a system message already, and domains.{name}.system_prompt "
        f"would be a second one ({len(items)} such prompts); leave one of them out"
        for name, items in clashing.items()
    ]
    if problems:
        raise ConfigError(*problems)


def _unrouted(routing: Routed) -> Iterator[Dropped]:
    """What the router left out."""
    return (Dropped(prompt, UNROUTED, "router", reason) for prompt, reason in routing.dropped)


def _labelled_twins(routed: Sequence[RoutedPrompt]) -> Iterator[Dropped]:
    """The prompts that a router gave a domain, or will, although the same messages stand there with a label
    already: they would be the domain's rows twice, or contradict the label."""
    first = {_messages_key(item): item for item in routed if item.prompt.has_label}
    for item in routed:
        twin = None if item.prompt.has_label else first.get(_messages_key(item))
        if twin is not None:
            detail = f"repeats {twin.prompt.where}, which has a label"
            yield Dropped(item.prompt, twin.domain, "duplicate", detail)


def _messages_key(item: RoutedPrompt) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in item.prompt.messages)
