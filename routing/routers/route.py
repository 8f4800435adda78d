"""Routers: from a prompt to its domain, and so to its teacher. Total, or loud.

A label that is there always decides; a router decides on the prompts without one. Adding a router is a
config type in `configs.blocks.routing`, a function here or in a file of its own, and a line in ROUTERS.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from common.errors import ConfigError
from configs.blocks.routing import CommonRouting
from routing.routers.by_label import labelled_domain
from routing.routers.decisions import Decision, Decisions, Routed, RoutedPrompt
from routing.sources.collect import Prompt

ROUTERS: dict[str, str] = {
    "label": "routing.routers.by_label:decide",
    "rules": "routing.routers.by_rules:decide",
    "learned": "routing.routers.learned:decide",
    "agreement": "routing.routers.agreement:decide",
}
"""Each `kind`'s router: (unlabelled prompts, labelled ones, config, domains) -> Decisions."""


def route(prompts: Sequence[Prompt], cfg: CommonRouting, domains: Sequence[str]) -> Routed:
    """Every prompt with its domain, left out, or undecided; each list in the order of the prompts.

    Raises ConfigError if a prompt cannot be routed, or if a domain is left without prompts.
    """
    labelled = [(place, found) for place, p in enumerate(prompts) if (found := _by_label(p, cfg, domains))]
    known = {place for place, _ in labelled}
    rest = [(place, prompt) for place, prompt in enumerate(prompts) if place not in known]
    decisions = _router(cfg.kind)([p for _, p in rest], [found for _, found in labelled], cfg, domains)
    assert len(decisions.each) == len(rest), "a router decides on every prompt that it is given"
    routed = settled(rest, decisions, cfg, labelled)
    if not routed.undecided:
        _refuse_bare_domains(Counter(item.domain for item in routed.prompts), domains)
    return routed


def settled(
    rest: Sequence[tuple[int, Prompt]],
    decisions: Decisions,
    cfg: CommonRouting,
    labelled: Sequence[tuple[int, RoutedPrompt]],
) -> Routed:
    """The labelled prompts and those that were decided on, in order of their places (place, prompt).

    What is done about prompts that the router is not sure of is the config's `otherwise`; raises ConfigError.
    """
    pairs = list(zip(rest, decisions.each, strict=True))
    unsure = [(prompt, decision) for (_, prompt), decision in pairs if _is_unsure(decision)]
    if unsure and cfg.otherwise_text() == "refuse":
        prompt, decision = unsure[0]
        raise ConfigError(
            f"{prompt.where}: {decision.reason}; {len(unsure)} of {len(rest)} prompts without a label are "
            "so; routing.otherwise: drop leaves them out, {domain: ...} gives them to one domain"
        )
    placed, dropped, undecided = list(labelled), [], []
    for (place, prompt), decision in pairs:
        if decision.is_open:
            undecided.append(prompt)
        elif decision.domain is not None:
            item = RoutedPrompt(prompt, decision.domain, decision.reason, decision.confidence)
            placed.append((place, item))
        elif cfg.fallback is not None:
            reason = f"fallback: {decision.reason}"
            placed.append((place, RoutedPrompt(prompt, cfg.fallback, reason, decision.confidence)))
        else:
            dropped.append((prompt, decision.reason))
    placed.sort(key=lambda pair: pair[0])
    return Routed([item for _, item in placed], dropped, undecided, decisions.measured)


def with_decisions(
    routed: Sequence[RoutedPrompt], undecided: Sequence[Prompt], decisions: Decisions, cfg: CommonRouting
) -> Routed:
    """The routed prompts and behind them those that were decided on later; see `settled`."""
    behind = list(enumerate(undecided, start=len(routed)))
    return settled(behind, decisions, cfg, list(enumerate(routed)))


def _is_unsure(decision: Decision) -> bool:
    return decision.domain is None and not decision.is_open


def _refuse_bare_domains(counts: Mapping[str, int], domains: Sequence[str]) -> None:
    bare = [domain for domain in domains if not counts.get(domain)]
    if bare:
        found = ", ".join(f"{domain}: {counts.get(domain, 0)}" for domain in domains)
        raise ConfigError(f"no prompt is routed to domain {bare[0]!r} (prompts by domain: {found})")


def _by_label(prompt: Prompt, cfg: CommonRouting, domains: Sequence[str]) -> RoutedPrompt | None:
    found = labelled_domain(prompt, cfg.field, domains)
    return None if found is None else RoutedPrompt(prompt, *found)


def _router(kind: str) -> Callable[..., Decisions]:
    module, _, name = ROUTERS[kind].partition(":")
    return getattr(importlib.import_module(module), name)
