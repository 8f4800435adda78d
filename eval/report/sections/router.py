"""The router behind a run's domains, as the report shows it; the sentences and tables are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RouterSection:
    """How good a router is where the label is known, and how sure."""

    measured: Mapping[str, Any]
    """Plain values, for `report.json`."""
    told: Sequence[str]
    """Sentences."""
    confusion: Sequence[Sequence[str]] = ()
    """Head and rows: the label, then how often the router said each domain; empty where it was not tested."""
    histogram: Sequence[tuple[str, int]] = ()
    """(range of confidence, prompts); empty where it has none."""
