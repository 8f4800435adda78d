"""Prompt sources: from a file or a data set to prompts, each with the place that it came from.

Adding a source kind is a config type in `configs.blocks.prompts`, a reader, and a line in SOURCES.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError
from common.remote import Remote
from configs.blocks.prompts import Prompts
from configs.schema import MergeConfig
from routing.sources.readers import Row, parts
from routing.sources.rows import Prompt, RowReading, label_column

__all__ = ["SOURCES", "Prompt", "PromptSet", "collect_prompts", "load_prompts", "reader", "remote_of"]

SOURCES: dict[str, str] = {
    "file": "routing.sources.readers:read_file",
    "verl": "routing.sources.readers:read_verl",
    "local": "routing.sources.readers:read_local",
    "hub": "routing.sources.readers:read_hub",
    "reasoning_gym": "routing.sources.gym:read_reasoning_gym",
}
"""Reader of each `kind`: from its config to (row number, row), rows counted from 1."""

REMOTES: dict[str, str] = {"hub": "routing.sources.readers:hub_files"}
"""For each `kind` whose rows have to be downloaded: from its config to what is."""


@dataclass(frozen=True)
class Duplicate:
    """A row that is not used because an earlier one has the same messages and the same label."""

    prompt: Prompt
    kept: Prompt

    @property
    def same_answer(self) -> bool:
        """Whether both rows have the same answer."""
        return self.prompt.answer == self.kept.answer


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a whole config."""

    prompts: list[Prompt]
    repeated: list[Duplicate]
    """Rows that were dropped because an earlier row has the same messages and the same label."""

    @property
    def duplicates(self) -> int:
        """How many rows were dropped."""
        return len(self.repeated)


def collect_prompts(config: MergeConfig) -> PromptSet:
    """All prompts that a config names: the top-level source first, then each domain's own."""
    field, column = config.routing.field, config.mixing.order.column
    prompts: list[Prompt] = []
    if config.prompts is not None:
        prompts += _read(config.prompts, None, field, column)
    for name, domain in config.domains.items():
        if domain.prompts is not None:
            prompts += _read(domain.prompts, name, field, column)
    return PromptSet(*drop_duplicates(prompts))


def load_prompts(
    cfg: Prompts, domain: str | None, max: int | None = None, label_field: str = "domain"
) -> list[Prompt]:
    """The prompts of one source, without duplicates.

    `domain` is the domain that owns the source (None: rows must be labelled), `max` limits the rows
    further than the source's own `limit`, `label_field` is the column with the label. Raises
    ConfigError for a missing column, a malformed line or an empty prompt, with file and row.
    """
    return drop_duplicates(_read(cfg, domain, label_field, None, max))[0]


def drop_duplicates(prompts: Iterable[Prompt]) -> tuple[list[Prompt], list[Duplicate]]:
    """The first of each (messages, label), and those that repeat one."""
    kept: dict[str, Prompt] = {}
    repeated: list[Duplicate] = []
    for prompt in prompts:
        if prompt.id in kept:
            repeated.append(Duplicate(prompt, kept[prompt.id]))
        else:
            kept[prompt.id] = prompt
    return list(kept.values()), repeated


def reader(kind: str) -> Callable[[Any], Iterator[Row]]:
    """The reader that SOURCES names for a kind."""
    return _target(SOURCES[kind])


def remote_of(cfg: Prompts) -> Remote | None:
    """What has to be downloaded before this source can be read; None for one that is local."""
    return _target(REMOTES[cfg.kind])(cfg) if cfg.kind in REMOTES else None


def _target(target: str) -> Callable[[Any], Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _read(
    cfg: Prompts,
    owner: str | None,
    label_field: str,
    difficulty_column: str | None,
    max_rows: int | None = None,
) -> list[Prompt]:
    limits = [limit for limit in (cfg.limit, max_rows) if limit is not None]
    rows = list(itertools.islice(_rows(cfg), min(limits, default=None)))
    if not rows:
        raise ConfigError(f"{cfg.title()}: holds no rows")
    column = label_column(cfg, owner, label_field, rows)
    return list(RowReading(cfg, owner, column, difficulty_column).prompts(rows))


def _rows(cfg: Prompts) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(source, row number, row) of all files."""
    for part in parts(cfg):
        for number, row in reader(cfg.kind)(part):
            yield part.title(), number, row
