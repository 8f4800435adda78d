"""Labels: a row's own, or the domain whose source it stands in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.errors import ConfigError
from common.words import did_you_mean
from configs.blocks.routing import LabelRouting
from routing.sources.collect import Prompt

if TYPE_CHECKING:
    from routing.routers.decisions import Decisions, RoutedPrompt


def labelled_domain(
    prompt: Prompt, field: str, domains: Sequence[str], source: str = "prompts"
) -> tuple[str, str] | None:
    """A prompt's domain by its label, and why; None where there is no label.

    `source` is the key of the domain's block that a prompt with an owner comes from.

    Raises ConfigError for a label that is no domain and for one that contradicts the source.
    """
    label, column = prompt.label or prompt.owner, prompt.label_column or field
    if label is None:
        return None
    if label not in domains:
        raise ConfigError(
            f"{prompt.where}: label {label!r} (column {column!r}) names no domain; "
            f"{did_you_mean(label, domains)}valid labels: {', '.join(domains)}"
        )
    if prompt.owner is not None and label != prompt.owner:
        raise ConfigError(
            f"{prompt.where}: label {label!r} (column {column!r}) contradicts the source, which is "
            f"domains.{prompt.owner}.{source}"
            + "; rows of several domains belong in the top-level prompts"
            * (source == "prompts")
        )
    return label, f"label {column}={label}" if prompt.label else f"row of domains.{label}.{source}"


def decide(
    unlabelled: Sequence[Prompt],
    labelled: Sequence[RoutedPrompt],
    cfg: LabelRouting,
    domains: Sequence[str],
) -> Decisions:
    """Refuses every prompt without a label."""
    from routing.routers.decisions import Decisions

    if unlabelled:
        prompt = unlabelled[0]
        raise ConfigError(
            f"{prompt.where}: no label (column {prompt.label_column or cfg.field!r}); valid labels: "
            f"{', '.join(domains)}; routing: learned, rules or agreement route prompts without one"
        )
    return Decisions([])
