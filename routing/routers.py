"""Routers: from a prompt to its domain, and so to its teacher. Total, or loud.

Adding a router is a config type in `configs.schema`, a function here or in a file of its own, and a
line in ROUTERS.
"""

from __future__ import annotations

import difflib
import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from configs.load import ConfigError
from configs.schema import LabelRouting
from routing.sources import Prompt

ROUTERS: dict[str, str] = {
    "label": "routing.routers:route_by_label",
}
"""Each `kind`'s router: (prompts, config, domains) -> list[RoutedPrompt], in the order of the prompts."""


@dataclass(frozen=True)
class RoutedPrompt:
    """A prompt with the domain whose teacher scores it."""

    prompt: Prompt
    domain: str
    reason: str
    """Why this domain, in words."""


def route(prompts: Sequence[Prompt], cfg: LabelRouting, domains: Sequence[str]) -> list[RoutedPrompt]:
    """Every prompt with its domain, in order.

    Raises ConfigError if a prompt cannot be routed, or if a domain is left without prompts.
    """
    module, _, name = ROUTERS[cfg.kind].partition(":")
    router = getattr(importlib.import_module(module), name)
    routed: list[RoutedPrompt] = router(prompts, cfg, domains)
    assert [r.prompt for r in routed] == list(prompts), "a router keeps every prompt, in order"
    counts = Counter(r.domain for r in routed)
    bare = [domain for domain in domains if not counts[domain]]
    if bare:
        found = ", ".join(f"{domain}: {counts[domain]}" for domain in domains)
        raise ConfigError(f"no prompt is routed to domain {bare[0]!r} (prompts by domain: {found})")
    return routed


def route_by_label(
    prompts: Sequence[Prompt], cfg: LabelRouting, domains: Sequence[str]
) -> list[RoutedPrompt]:
    """The row's own label, or the domain whose own source the row stands in.

    A label that is no domain, no label at all, and a label that contradicts the source are refused.
    """
    routed = []
    for prompt in prompts:
        label, column = prompt.label or prompt.owner, prompt.label_column or cfg.field
        if label is None:
            raise ConfigError(
                f"{prompt.where}: no label (column {column!r}); valid labels: {', '.join(domains)}"
            )
        if label not in domains:
            near = difflib.get_close_matches(label, domains, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{prompt.where}: label {label!r} (column {column!r}) names no domain; "
                f"{hint}valid labels: {', '.join(domains)}"
            )
        if prompt.owner is not None and label != prompt.owner:
            raise ConfigError(
                f"{prompt.where}: label {label!r} (column {column!r}) contradicts the source, which is "
                f"domains.{prompt.owner}.prompts; rows of several domains belong in the top-level prompts"
            )
        reason = f"label {column}={label}" if prompt.label else f"row of domains.{label}.prompts"
        routed.append(RoutedPrompt(prompt, label, reason))
    return routed
