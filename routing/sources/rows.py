"""From one row of a source to a prompt, or to a refusal with file and row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError
from configs.blocks.prompts import PromptSource

ROLES = ("system", "user", "assistant")

OPD_TEACHER = "extra_info.opd_teacher"
"""Where the G-OPD paper's data names a prompt's teacher."""


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
    label_column: str | None = None
    """Column that the label is read from."""
    difficulty: float | None = None
    """What a curriculum sorts by; None where it does not read a column."""

    @property
    def has_label(self) -> bool:
        """Whether its row names its domain, or its source does."""
        return bool(self.label or self.owner)

    @property
    def where(self) -> str:
        """Source and row, as messages name them."""
        return f"{self.source}, row {self.row}"

    @property
    def text(self) -> str:
        """What the user says, without roles."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == "user")


@dataclass(frozen=True)
class RowReading:
    """How the rows of one source become prompts."""

    cfg: PromptSource
    owner: str | None
    label_column: str
    difficulty_column: str | None = None

    def prompts(self, rows: Iterable[tuple[str, int, dict[str, Any]]]) -> Iterator[Prompt]:
        """The prompts of rows (source, row number, row), in order; raises ConfigError."""
        render = None if self.cfg.template is None else template(self.cfg.template)
        for source, number, row in rows:
            yield self._prompt(row, source, number, render)

    def _prompt(self, row: dict[str, Any], source: str, number: int, render: Render | None) -> Prompt:
        where, columns = f"{source}, row {number}", self.cfg.columns
        if render is None:
            place = f"column {self.cfg.prompt_column!r}"
            value = _column(row, self.cfg.prompt_column, where)
        else:
            place, value = "template", render(row, where)
        messages = self._completed(_messages(value, place, where), where)
        answer = None if columns.answer is None else _answer(row, columns.answer, where)
        label = self._label(row, where)
        key = json.dumps([label or self.owner, messages], ensure_ascii=False, sort_keys=True)
        digest = hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]
        ranked = self.difficulty_column
        difficulty = None if ranked is None else _number(row, ranked, where)
        return Prompt(
            digest, messages, answer, label, source, number, self.owner, self.label_column, difficulty
        )

    def _completed(self, messages: tuple[dict[str, str], ...], where: str) -> tuple[dict[str, str], ...]:
        """The messages with the source's system message and suffix."""
        if self.cfg.suffix is not None:
            last = messages[-1]
            messages = (*messages[:-1], {**last, "content": last["content"] + self.cfg.suffix})
        if self.cfg.system is None:
            return messages
        if any(message["role"] == "system" for message in messages):
            raise ConfigError(f"{where}: the prompt has a system message already; leave `system` out")
        return ({"role": "system", "content": self.cfg.system}, *messages)

    def _label(self, row: dict[str, Any], where: str) -> str | None:
        column, labels = self.label_column, self.cfg.labels
        value = _column(row, column, where) if self.cfg.columns.label else _lookup(row, column)
        if value is _ABSENT or value is None or value == "":
            return None
        if isinstance(value, int) and str(value) in labels:
            return labels[str(value)]
        if not isinstance(value, str):
            raise ConfigError(f"{where}: label {column!r} must be the name of a domain (text), got {value!r}")
        return labels.get(value, value)


def label_column(
    cfg: PromptSource, owner: str | None, field: str, rows: Iterable[tuple[str, int, dict[str, Any]]]
) -> str:
    """Column with the label: the source's own, else `routing.field`, else one of verl's.

    One column for all rows: a row that has none of its own must not take its label from another place.
    """
    if cfg.columns.label is not None:
        return cfg.columns.label
    if cfg.kind != "verl":
        return field
    known = [field, OPD_TEACHER] + ["ability"] * (owner is None)
    rows = list(rows)
    return next((name for name in known if any(_lookup(row, name) is not _ABSENT for *_, row in rows)), field)


# ----------------------------------------------------------------------------------------- template

Render = Callable[[dict[str, Any], str], str]


def template(text: str) -> Render:
    """(row, place) -> prompt; raises ConfigError where the row has no value for the template."""
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    def value(found: object) -> object:
        if found is None:
            raise TemplateError("a column that it writes is null")
        return found

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, finalize=value, autoescape=False, keep_trailing_newline=True
    )
    compiled = environment.from_string(text)

    def render(row: dict[str, Any], where: str) -> str:
        try:
            return compiled.render(row)
        # an expression of the template may raise anything (`{{ 1 / n }}`)
        except Exception as error:
            columns = ", ".join(_columns(row))
            raise ConfigError(f"{where}: the template fails: {error}; columns there: {columns}") from None

    return render


# ------------------------------------------------------------------------------------------ columns

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


def _answer(row: dict[str, Any], column: str, where: str) -> Any:
    answer = _column(row, column, where)
    try:
        text = json.dumps(answer, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: column {column!r} is no JSON value: {answer!r:.80}") from None
    _refuse_surrogates(text, f"column {column!r}", where)
    return answer


def _number(row: dict[str, Any], column: str, where: str) -> float:
    value = _column(row, column, where)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{where}: column {column!r} (mixing.order.column) must hold a number, got {value!r:.80}"
        )
    return number


# ----------------------------------------------------------------------------------------- messages


def _messages(value: object, place: str, where: str) -> tuple[dict[str, str], ...]:
    """Chat messages from a text or a list of messages; an empty prompt is refused."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if value is None or value == []:
        raise ConfigError(f"{where}: the prompt ({place}) is empty")
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {place} must hold text or a list of chat messages, got {value!r:.80}")
    messages = tuple(_message(item, place, where) for item in value)
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        problem = "is empty" if messages[-1]["role"] == "user" else "must end with a message of role 'user'"
        raise ConfigError(f"{where}: the prompt ({place}) {problem}")
    return messages


def _message(item: object, place: str, where: str) -> dict[str, str]:
    given = {k: v for k, v in item.items() if v is not None} if isinstance(item, dict) else {}
    if given.keys() != {"role", "content"} or not isinstance(given["content"], str):
        raise ConfigError(
            f"{where}: {place}: a chat message has `role` and `content` (text), got {item!r:.80}"
        )
    if given["role"] not in ROLES:
        raise ConfigError(f"{where}: {place}: role {given['role']!r}; valid: {', '.join(ROLES)}")
    _refuse_surrogates(given["content"], place, where)
    return {"role": given["role"], "content": given["content"]}


def _refuse_surrogates(text: str, place: str, where: str) -> None:
    """Half of a UTF-16 pair is no character: no tokenizer or file takes it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ConfigError(f"{where}: {place} holds {half}, half of a character (a lone surrogate)") from None
