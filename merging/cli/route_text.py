"""What `protege route` shows: how prompts are routed and mixed, with examples. It loads no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.schema import MergeConfig
from merging.checks.found import Preflight
from merging.checks.models import registry_experts
from merging.checks.preflight import Lines, checked
from merging.checks.prompts import conflicts, mixing, sources, system_prompts
from routing import kept
from routing.gap import GapBudget
from routing.mix import Mix, by_domain
from routing.prompt_state import PromptState
from routing.routers.decisions import RoutedPrompt
from routing.routers.wording import confusion_table, histogram_rows, told


@dataclass(frozen=True)
class Routing:
    """Every prompt of a config and what became of it."""

    config: MergeConfig
    prompts: PromptState

    @classmethod
    def of(cls, config: MergeConfig, run_dir: Path) -> Routing:
        """Reads and routes; raises ConfigError."""
        lines: Lines = ((sources, system_prompts, conflicts, mixing),)
        if config.routing.decides_late:
            # decisions of the experts are kept under what they are, whatever the config calls them
            lines = ((registry_experts,), *lines)
        return cls(config, checked(Preflight(config=config, run_dir=run_dir), lines))

    def lines(self, examples: int) -> Iterator[str]:
        """For the terminal."""
        for name in self.config.domains:
            yield self._domain(name)
            yield from (_example(item) for item in self._items(name)[:examples])
        if self.prompts.undecided:
            count = len(self.prompts.undecided)
            yield f"undecided: {count} prompts, which get a domain once the experts are there"
            yield from (_example(item) for item in self.prompts.undecided[:examples])
        if self.prompts.router is not None:
            yield from told(self.prompts.router)
            yield from _table(confusion_table(self.prompts.router))
            yield from _bars(histogram_rows(self.prompts.router))
        yield from kept.notes(self.prompts.dropped, [], self.prompts.conflicts, self.config.overlap.action)
        yield from kept.gap_note(self.config)
        left_out = [item for item in self.prompts.dropped if item.reason == "router"]
        yield from (f"  left out: {_place(item.prompt)} ({item.detail})" for item in left_out[:examples])
        if not any(item.reason == "duplicate" for item in self.prompts.dropped):
            yield "0 duplicate prompts dropped"
        if self.config.training.too_long == "drop" or self.config.overlap.action == "drop":
            yield "`protege check` also drops prompts that are too long or repeat a benchmark"

    def to_json(self, examples: int) -> dict[str, Any]:
        """Plain values: counts, shares and rows by domain, examples, what was dropped, measurements."""
        mixed, training, budget = self._mix, self.config.training, GapBudget.of(self.config)
        return {
            "prompts": {name: len(self._items(name)) for name in self.config.domains},
            "shares": {name: float(share) for name, share in mixed.shares.items()},
            "rows": mixed.counts(training.steps, training.prompts_per_step),
            **({"share_range": [float(budget.least), float(budget.most)]} if budget else {}),
            "decided_by": dict(
                Counter("label" if i.prompt.has_label else "router" for i in self.prompts.routed)
            ),
            "undecided": len(self.prompts.undecided),
            "dropped": kept.by_reason(self.prompts.dropped),
            "conflicts": dict(self.prompts.conflicts),
            "router": self.prompts.router,
            "examples": {
                name: [_example_json(item) for item in self._items(name)[:examples]]
                for name in self.config.domains
            },
        }

    def _items(self, domain: str) -> list[RoutedPrompt]:
        return self._groups.get(domain, [])

    @cached_property
    def _groups(self) -> dict[str, list[RoutedPrompt]]:
        return by_domain(self.prompts.routed)

    @cached_property
    def _mix(self) -> Mix:
        return kept.mix_of(self.config, self.prompts.routed)

    def _domain(self, name: str) -> str:
        items = self._items(name)
        scale = self.config.reward_scale_of(name)
        shown = "auto" if scale is None else f"{scale:g}"
        if not items:
            return f"{name}: no prompt yet, lambda {shown}"
        part = kept.mix_text(self._mix, self.config, name)
        unlabelled = sum(not item.prompt.has_label for item in items)
        how = f" ({unlabelled} by the router)" if unlabelled else ""
        mode = self.config.prompt_modes()[name].told()
        asked = f", asked with {mode}" if mode else ""
        return f"{name}: {len(items)} prompts{how}, {part}, lambda {shown}{asked}"


def _example(item: RoutedPrompt) -> str:
    return f"  {_place(item.prompt)} ({item.reason}): {_short(item.prompt.text)}"


def _place(prompt: Any) -> str:
    return f"row {prompt.row}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:97] + "..."


def _example_json(item: RoutedPrompt) -> dict[str, Any]:
    return {
        "source": item.prompt.source,
        "row": item.prompt.row,
        "text": item.prompt.text,
        "reason": item.reason,
        "confidence": item.confidence,
    }


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        yield "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


def _bars(bins: Sequence[tuple[str, int]]) -> Iterator[str]:
    """The confidence of the prompts without a label, a bar a bin."""
    most = max((count for _, count in bins), default=0)
    if most:
        yield "confidence of the prompts without a label:"
    for span, count in bins:
        yield f"  {span} {count:6} " + "#" * round(40 * count / most)
