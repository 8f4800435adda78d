"""Mixing of domains: equal numbers of prompts, and equal shares of every step's batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from routing.routers import RoutedPrompt


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
    routed: Sequence[RoutedPrompt], steps: int, prompts_per_step: int, seed: int
) -> list[RoutedPrompt]:
    """The rows of a whole training in the order they are read: `steps * prompts_per_step` of them.

    The domains alternate, so each step holds every domain equally often, up to one; where
    `prompts_per_step` is no multiple of the number of domains, the ones with one more rotate from step
    to step. A domain's prompts are reshuffled for every pass over them, so none comes a second time
    before all have come once.
    """
    groups = by_domain(routed)
    assert groups, "there are prompts to schedule"
    names = list(groups)
    streams = {name: _passes(groups[name], f"schedule:{seed}:{name}") for name in names}
    return [next(streams[names[row % len(names)]]) for row in range(steps * prompts_per_step)]


def _passes(prompts: list[RoutedPrompt], seed: str) -> Iterator[RoutedPrompt]:
    """Endless passes over the prompts, each in a new order."""
    generator = random.Random(seed)
    while True:
        order = list(prompts)
        generator.shuffle(order)
        yield from order
