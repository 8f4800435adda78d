"""Agreement: the teacher that the student's own answers move the most decides. Experimental.

The decision is here; the answers and their scores are made in a merge, once the experts are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from configs.blocks.routing import AgreementRouting
from routing.sources.collect import Prompt

if TYPE_CHECKING:
    from routing.routers.decisions import Decision, Decisions, RoutedPrompt


def decide(
    unlabelled: Sequence[Prompt],
    labelled: Sequence[RoutedPrompt],
    cfg: AgreementRouting,
    domains: Sequence[str],
) -> Decisions:
    """Leaves every prompt open."""
    from routing.routers.decisions import Decision, Decisions

    return Decisions([Decision(None, "decided once the experts are there", is_open=True)] * len(unlabelled))


def most_moved(signals: Mapping[str, float], margin: float) -> Decision:
    """The domain with the largest signal (nats a token), if it leads the second by `margin` or more."""
    from routing.routers.decisions import Decision

    ranked = sorted(signals, key=lambda domain: -signals[domain])
    first = ranked[0]
    told = ", ".join(f"{domain} {signals[domain]:.3f}" for domain in ranked)
    if len(ranked) > 1 and signals[first] - signals[ranked[1]] < margin:
        return Decision(None, f"its teachers' signals are within routing.margin {margin:g}: {told}")
    return Decision(first, f"signal {told}")
