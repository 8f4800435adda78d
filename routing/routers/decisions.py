"""What routers say of prompts: the records, apart from who decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from routing.sources.collect import Prompt

UNROUTED = "no domain"
"""Where counts by domain have the prompts that a router left out."""


@dataclass(frozen=True)
class RoutedPrompt:
    """A prompt with the domain whose teacher scores it."""

    prompt: Prompt
    domain: str
    reason: str
    """Why this domain, in words."""
    confidence: float | None = None
    """The router's, in [0, 1]; None where a label or a rule decided."""


@dataclass(frozen=True)
class Decision:
    """What a router makes of one prompt. Without a domain, it is not sure."""

    domain: str | None
    reason: str
    confidence: float | None = None
    is_open: bool = False
    """It can be decided once the experts are there."""


@dataclass(frozen=True)
class Decisions:
    """A router's decisions on all unlabelled prompts, in their order."""

    each: Sequence[Decision]
    measured: Mapping[str, Any] | None = None
    """How good the router is, and how sure: plain values for the report."""


@dataclass(frozen=True)
class Routed:
    """Every prompt, once: in one of the three lists."""

    prompts: list[RoutedPrompt]
    dropped: list[tuple[Prompt, str]] = field(default_factory=list)
    """Prompts that are left out, each with the reason."""
    undecided: list[Prompt] = field(default_factory=list)
    """Prompts that are decided on once the experts are there."""
    measured: Mapping[str, Any] | None = None
    """See `Decisions.measured`."""
