"""Mixing of domains: which prompts are used, each domain's share of every step, and the order of all rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from configs.blocks.mixing import SHUFFLED, CurriculumOrder, Mixing, ShuffledOrder, TemperatureMixing
from routing.apportion import interleaved, step_counts
from routing.routers.decisions import RoutedPrompt

Item = TypeVar("Item")


@dataclass(frozen=True)
class Mix:
    """What a training on several domains reads: a function of config and prompts alone."""

    prompts: list[RoutedPrompt]
    """The prompts that may be used."""
    shares: dict[str, Fraction]
    """Each domain's share of every step; they add up to 1."""
    order: ShuffledOrder | CurriculumOrder
    seed: int

    def counts(self, steps: int, prompts_per_step: int) -> dict[str, int]:
        """Rows of each domain in a whole training; empty where no prompt has a domain yet."""
        if not self.shares:
            return {}
        return dict(_totals(tuple(self.shares.items()), steps, prompts_per_step))

    def rows(
        self, steps: int, prompts_per_step: int, read: Mapping[str, int] | None = None
    ) -> list[RoutedPrompt]:
        """The rows of a whole training, in the order they are read; `read` are those of each domain that
        another training has read before it."""
        return schedule(self.prompts, steps, prompts_per_step, self.seed, self.shares, self.order, read)


@lru_cache(maxsize=64)
def _totals(shares: tuple[tuple[str, Fraction], ...], steps: int, size: int) -> tuple[tuple[str, int], ...]:
    """Rows of each domain; kept, since every domain asks, and 40 domains in 5,000 steps take a second."""
    total = Counter({name: 0 for name, _ in shares})
    for counts in step_counts(dict(shares), steps, size):
        total.update(counts)
    return tuple(total.items())


def mix(routed: Sequence[RoutedPrompt], mixing: Mixing, seed: int) -> Mix:
    """The mix that a config declares."""
    prompts = balance(routed, seed) if mixing.kind == "balanced" else list(routed)
    numbers = {name: len(group) for name, group in by_domain(prompts).items()}
    return Mix(prompts, shares_of(mixing, numbers), mixing.order, seed)


def shares_of(mixing: Mixing, numbers: Mapping[str, int]) -> dict[str, Fraction]:
    """Each domain's share of every step, from the number of prompts that it has."""
    if not numbers:
        return {}
    weights = WEIGHTS[mixing.kind](mixing, numbers)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _by_number(mixing: TemperatureMixing, numbers: Mapping[str, int]) -> dict[str, Fraction]:
    """Relative to the largest, so that no power overflows, and as whole numbers of 1e-9, which is finer than
    a row of any training and keeps the arithmetic of the shares fast."""
    largest, power = max(numbers.values()), 1 / mixing.temperature
    relative = {name: (number / largest) ** power for name, number in numbers.items()}
    return {name: Fraction(max(round(value * 10**9), 1)) for name, value in relative.items()}


WEIGHTS: Mapping[str, Callable[[Any, Mapping[str, int]], dict[str, Fraction]]] = {
    "balanced": lambda mixing, numbers: dict.fromkeys(numbers, Fraction(1)),
    "weighted": lambda mixing, numbers: {name: Fraction(repr(mixing.weights[name])) for name in numbers},
    "temperature": _by_number,
    # of trainings without validations; those with them plan their own (`routing.gap`)
    "gap": lambda mixing, numbers: dict.fromkeys(numbers, Fraction(1)),
}
"""By kind of mixing: what each domain's share is in proportion to."""


def by_domain(routed: Sequence[RoutedPrompt]) -> dict[str, list[RoutedPrompt]]:
    """The prompts of each domain; domains in order of first appearance, prompts in theirs."""
    groups: dict[str, list[RoutedPrompt]] = {}
    for item in routed:
        groups.setdefault(item.domain, []).append(item)
    return groups


def balance(routed: Sequence[RoutedPrompt], seed: int) -> list[RoutedPrompt]:
    """Every domain down-sampled to the smallest one's number of prompts, order kept.

    A domain's choice depends on the seed, its name and its own prompts only.
    """
    groups = by_domain(routed)
    smallest = min(map(len, groups.values()), default=0)
    kept = {
        id(group[position])
        for domain, group in groups.items()
        for position in random.Random(f"balance:{seed}:{domain}").sample(range(len(group)), smallest)
    }
    return [item for item in routed if id(item) in kept]


def schedule(
    routed: Sequence[RoutedPrompt],
    steps: int,
    prompts_per_step: int,
    seed: int,
    shares: Mapping[str, Fraction] | None = None,
    order: ShuffledOrder | CurriculumOrder = SHUFFLED,
    read: Mapping[str, int] | None = None,
) -> list[RoutedPrompt]:
    """The rows of a whole training in the order they are read: `steps * prompts_per_step` of them.

    Each step holds the domains in their `shares` (by default equal ones), as exactly as whole numbers allow
    (`routing.apportion.step_counts`), and alternates between them; equal shares are dealt round robin. A
    domain's prompts are reshuffled for every pass over them, so none comes a second time before all have
    come once; a curriculum sorts the same rows of a domain from easy to hard. They begin behind those that
    were `read` of it before.
    """
    groups = by_domain(routed)
    assert groups, "there are prompts to schedule"
    shares = shares or dict.fromkeys(groups, Fraction(1, len(groups)))
    dealt, names = dict.fromkeys(groups, 0), []
    for counts in step_counts({name: shares[name] for name in groups}, steps, prompts_per_step):
        names += interleaved(counts, shares, dealt)
        dealt = {name: dealt[name] + counts[name] for name in dealt}
    streams = {
        name: _ordered(islice(domain_stream(groups[name], seed, name), (read or {}).get(name, 0), None),
                       dealt[name], order)
        for name in groups
    }  # fmt: skip
    return [next(streams[name]) for name in names]


def domain_stream(items: Sequence[Item], seed: int, domain: str) -> Iterator[Item]:
    """Endless passes over a domain's items, each in a new order, which depends on their number, not on what
    they are."""
    assert items, f"domain {domain!r} has items"
    generator = random.Random(f"schedule:{seed}:{domain}")
    while True:
        order = list(items)
        generator.shuffle(order)
        yield from order


def _ordered(
    passes: Iterator[RoutedPrompt], rows: int, order: ShuffledOrder | CurriculumOrder
) -> Iterator[RoutedPrompt]:
    if order.kind != "curriculum":
        return passes
    return iter(sorted(islice(passes, rows), key=lambda item: difficulty(item, order)))


def difficulty(item: RoutedPrompt, order: CurriculumOrder) -> float:
    """What a curriculum sorts by."""
    prompt = item.prompt
    if order.by == "length":
        return sum(len(message["content"]) for message in prompt.messages)
    assert prompt.difficulty is not None, "read with the prompt"
    return prompt.difficulty
