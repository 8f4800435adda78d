"""Prompt sources: from a file or a data set to prompts, each with the place that it came from.

Adding a source kind is a config type in `configs.schema`, a reader here, and a line in SOURCES.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from configs.prompts import FilePrompts, HubPrompts
from configs.schema import MergeConfig

SOURCES: dict[str, str] = {
    "file": "routing.sources:read_file",
    "hub": "routing.sources:read_hub",
}
"""Reader of each `kind`: from its config to (row number, row), rows counted from 1."""

ROLES = ("system", "user", "assistant")

Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """One prompt and where it stands."""

    id: str
    """Digest of label and messages; unique after duplicates are dropped."""
    messages: tuple[dict[str, str], ...]
    """Chat messages, each with `role` and `content`."""
    answer: Any
    """What the reward checks against (a JSON value); None where there is none."""
    label: str | None
    """The row's own label; None where the row has none."""
    source: str
    """File or data set."""
    row: int
    """Row in the source, from 1; the line in a `.jsonl`."""
    owner: str | None = None
    """The domain whose own source this is; None for a source of several domains."""

    @property
    def where(self) -> str:
        """Source and row, as messages name them."""
        return f"{self.source}, row {self.row}"

    @property
    def text(self) -> str:
        """What the user says, without roles."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == "user")


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a whole config."""

    prompts: list[Prompt]
    duplicates: int
    """Rows that were dropped because an earlier row has the same messages and the same label."""


def collect_prompts(config: MergeConfig) -> PromptSet:
    """All prompts that a config names: the top-level source first, then each domain's own."""
    field = config.routing.field
    prompts: list[Prompt] = []
    if config.prompts is not None:
        prompts += _read(config.prompts, None, field)
    for name, domain in config.domains.items():
        if domain.prompts is not None:
            prompts += _read(domain.prompts, name, field)
    kept, dropped = drop_duplicates(prompts)
    return PromptSet(kept, dropped)


def load_prompts(
    cfg: FilePrompts | HubPrompts, domain: str | None, max: int | None = None, label_field: str = "domain"
) -> list[Prompt]:
    """The prompts of one source, without duplicates.

    `domain` is the domain that owns the source (None: rows must be labelled), `max` limits the rows
    further than the source's own `limit`, `label_field` is the column with the label. Raises
    ConfigError for a missing column, a malformed line or an empty prompt, with file and row.
    """
    return drop_duplicates(_read(cfg, domain, label_field, max))[0]


def drop_duplicates(prompts: Iterable[Prompt]) -> tuple[list[Prompt], int]:
    """The first of each (messages, label), and how many were dropped."""
    kept: dict[str, Prompt] = {}
    total = 0
    for prompt in prompts:
        total += 1
        kept.setdefault(prompt.id, prompt)
    return list(kept.values()), total - len(kept)


def reader(kind: str) -> Callable[[Any], Iterator[Row]]:
    """The reader that SOURCES names for a kind."""
    module, _, name = SOURCES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def describe(cfg: FilePrompts | HubPrompts) -> str:
    """The source's name in messages."""
    return str(cfg.path) if cfg.kind == "file" else f"{cfg.path}[{cfg.split}]"


def _read(
    cfg: FilePrompts | HubPrompts, owner: str | None, label_field: str, max_rows: int | None = None
) -> list[Prompt]:
    limits = [limit for limit in (cfg.limit, max_rows) if limit is not None]
    rows = itertools.islice(reader(cfg.kind)(cfg), min(limits, default=None))
    prompts = [_prompt(row, number, cfg, owner, label_field) for number, row in rows]
    if not prompts:
        raise ConfigError(f"{describe(cfg)}: holds no rows")
    return prompts


# ------------------------------------------------------------------------------------------ one row


def _prompt(
    row: dict[str, Any], number: int, cfg: FilePrompts | HubPrompts, owner: str | None, label_field: str
) -> Prompt:
    source = describe(cfg)
    where = f"{source}, row {number}"
    messages = _messages(_column(row, cfg.columns.prompt, where), cfg.columns.prompt, where)
    answer = None if cfg.columns.answer is None else _column(row, cfg.columns.answer, where)
    try:
        json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError):
        column = cfg.columns.answer
        raise ConfigError(f"{where}: column {column!r} is no JSON value: {answer!r:.80}") from None
    label = _label(row, label_field, where)
    key = json.dumps([label or owner, messages], ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Prompt(digest, messages, answer, label, source, number, owner)


_ABSENT = object()


def _lookup(row: dict[str, Any], column: str) -> Any:
    """The column's value: by its full name, else through nested columns by its dots."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _column(row: dict[str, Any], column: str, where: str) -> Any:
    value = _lookup(row, column)
    if value is _ABSENT:
        raise ConfigError(f"{where}: no column {column!r}; columns there: {', '.join(_columns(row))}")
    return value


def _columns(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of the columns, nested ones with a dot, at most two levels."""
    for name, value in row.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict) and not prefix:
            yield from _columns(value, f"{name}.")


def _label(row: dict[str, Any], field: str, where: str) -> str | None:
    value = _lookup(row, field)
    if value is _ABSENT or value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{where}: label {field!r} must be the name of a domain (text), got {value!r}")
    return value


def _messages(value: object, column: str, where: str) -> tuple[dict[str, str], ...]:
    """Chat messages from a text or a list of messages; an empty prompt is refused."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if value is None or value == []:
        raise ConfigError(f"{where}: the prompt (column {column!r}) is empty")
    if not isinstance(value, list):
        raise ConfigError(
            f"{where}: column {column!r} must hold text or a list of chat messages, got {value!r:.80}"
        )
    messages = tuple(_message(item, column, where) for item in value)
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        problem = "is empty" if messages[-1]["role"] == "user" else "must end with a message of role 'user'"
        raise ConfigError(f"{where}: the prompt (column {column!r}) {problem}")
    return messages


def _message(item: object, column: str, where: str) -> dict[str, str]:
    given = {k: v for k, v in item.items() if v is not None} if isinstance(item, dict) else {}
    if given.keys() != {"role", "content"} or not isinstance(given["content"], str):
        raise ConfigError(
            f"{where}: column {column!r}: a chat message has `role` and `content` (text), got {item!r:.80}"
        )
    if given["role"] not in ROLES:
        raise ConfigError(f"{where}: column {column!r}: role {given['role']!r}; valid: {', '.join(ROLES)}")
    return {"role": given["role"], "content": given["content"]}


# ------------------------------------------------------------------------------------------ readers


def read_file(cfg: FilePrompts) -> Iterator[Row]:
    """Rows of a `.jsonl`, `.parquet` or `.csv` file."""
    path = cfg.path
    formats = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv}
    if path.suffix not in formats:
        raise ConfigError(f"{path}: unknown kind of prompt file; valid: {', '.join(formats)}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such prompt file")
    return formats[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}:{number}: not a line of JSON: {error}") from None
            if not isinstance(row, dict):
                raise ConfigError(f"{path}:{number}: a line must be a JSON object, got {row!r:.60}")
            yield number, row


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines, strict=True)
        try:
            for number, row in enumerate(table, start=1):
                if None in row or None in row.values():
                    fields = len(table.fieldnames or [])
                    raise ConfigError(f"{path}, row {number}: the header has {fields} fields, this row not")
                yield number, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}:{table.line_num}: not valid CSV: {error}") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a readable Parquet file: {error}") from None


def read_hub(cfg: HubPrompts) -> Iterator[Row]:
    """Rows of a Hugging Face data set, from the hub or the local cache."""
    import datasets

    try:
        table = datasets.load_dataset(
            cfg.path, data_files=cfg.data_files, split=cfg.split, revision=cfg.revision
        )
    # the library raises ordinary errors of many kinds (no such set, split, file, network)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(f"data set {describe(cfg)} cannot be loaded: {cause}") from None
    yield from enumerate(table, start=1)
