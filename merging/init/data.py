"""What `protege init` reads out of the user's files: columns, reward, labels, and what is held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError

Row = dict[str, Any]

PROMPT_NAMES = ("prompt", "question", "problem", "instruction", "messages", "input", "query", "text")
ANSWER_NAMES = (
    "answer",
    "final_answer",
    "expected_answer",
    "reward_model.ground_truth",
    "ground_truth",
    "solution",
    "target",
    "output",
)
"""Columns that are taken for prompt and answer where every row has one, the first that fits."""

EVALPLUS_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution")
LONGEST_EXACT = 80
"""Characters of an answer that a model may be expected to repeat letter by letter."""


@dataclass(frozen=True)
class Columns:
    """Where a file keeps prompt and answer."""

    prompt: str
    answer: str | None
    guessed: bool
    """Whether they were told from the rows, not by the user."""

    def __str__(self) -> str:
        answer = "no answers" if self.answer is None else f"answer in column {self.answer!r}"
        return f"prompt in column {self.prompt!r}, {answer}{', by the look of the rows' * self.guessed}"


def read_prompt_rows(path: Path, flag: str) -> list[Row]:
    """All rows of a prompt file; raises ConfigError, the flag first, if it cannot be read."""
    from configs.blocks.prompts import FilePrompts
    from routing.sources.collect import reader

    if not path.is_file():
        raise ConfigError(f"{flag}: {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        rows = [row for _, row in reader("file")(FilePrompts(kind="file", path=path))]
    except OSError as error:
        raise ConfigError(f"{flag}: {path}: cannot be read: {error.strerror}") from None
    if not rows:
        raise ConfigError(f"{flag}: {path}: holds no rows")
    return rows


def value_at(row: Row, column: str) -> Any:
    """The column's value, nested ones by dots; None where the row has none."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def column_names(row: Row) -> list[str]:
    """The columns, those of nested mappings too."""
    names = []
    for name, value in row.items():
        names.append(name)
        names += [f"{name}.{below}" for below in value] if isinstance(value, dict) else []
    return names


# ------------------------------------------------------------------------------------------ columns


def find_columns(rows: Sequence[Row], place: str, given: str | None, flag: str) -> Columns:
    """The columns that the user names (`PROMPT[,ANSWER]`), else those that the rows look like.

    `flag` is how the user names them. Raises ConfigError for one that is not there, and where no column
    looks like a prompt.
    """
    there = column_names(rows[0])
    if given is not None:
        prompt, comma, answer = (part.strip() for part in given.partition(","))
        for name in filter(None, (prompt, answer)):
            if name not in there:
                raise ConfigError(f"{flag}={given}: {place} has no column {name!r}; {_hint(name, there)}")
        if not prompt:
            raise ConfigError(f"{flag}={given}: expected PROMPT or PROMPT,ANSWER; {_hint(prompt, there)}")
        found = answer or None if comma else _first(rows, ANSWER_NAMES, _is_answer, other_than=prompt)
        return Columns(prompt, found, guessed=False)
    prompt = _first(rows, PROMPT_NAMES, _is_prompt)
    if prompt is None:
        raise ConfigError(
            f"{place}: no column looks like the prompt in every row; {flag}=PROMPT,ANSWER names it; columns "
            f"there: {', '.join(there)}"
        )
    return Columns(prompt, _first(rows, ANSWER_NAMES, _is_answer, other_than=prompt), guessed=True)


def _hint(name: str, there: Sequence[str]) -> str:
    from common.words import did_you_mean

    return f"{did_you_mean(name, there)}columns there: {', '.join(there)}"


def _first(
    rows: Sequence[Row], names: Sequence[str], fits: Callable[[Any], bool], other_than: str | None = None
) -> str | None:
    candidates = [name for name in names if name != other_than and fits(value_at(rows[0], name))]
    return next((name for name in candidates if all(fits(value_at(row, name)) for row in rows)), None)


def _is_prompt(value: object) -> bool:
    return bool(prompt_text(value).strip())


def _is_answer(value: object) -> bool:
    return value is not None and value != ""


def prompt_text(value: object) -> str:
    """What the user says in a text or a list of chat messages; empty for anything else."""
    if isinstance(value, str):
        return value
    messages = value if isinstance(value, list) else []
    said = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    return "\n".join(text for text in said if isinstance(text, str))


# ------------------------------------------------------------------------------------------- reward


def guess_reward(rows: Sequence[Row], columns: Columns) -> tuple[str, str] | None:
    """A reward that can judge these answers, and why; None where none can be told from them."""
    from eval.grading.graders import is_number

    if columns.answer is None:
        return None
    answers = [value_at(row, columns.answer) for row in rows]
    if all(isinstance(a, dict) and {"entry_point", "tests"} <= a.keys() for a in answers):
        return "code", "the answers hold tests"
    if not all(isinstance(answer, str | int | float) and not isinstance(answer, bool) for answer in answers):
        return None
    texts = [str(answer).strip() for answer in answers]
    boxed = any("\\boxed" in prompt_text(value_at(row, columns.prompt)) for row in rows)
    formulas = any("\\" in text or "$" in text or "^" in text for text in texts)
    if boxed and all(map(is_number, texts)):
        return "math", "the prompts ask for \\boxed{}"
    if boxed or formulas:
        return "math", "the answers are formulas"
    if all(map(is_number, texts)):
        return "number", "the answers are numbers"
    if all(len(text) <= LONGEST_EXACT for text in texts):
        return "exact", "the answers are short texts"
    return None


def find_label_column(rows: Sequence[Row], domains: Sequence[str]) -> str | None:
    """The column in which some rows name a domain, and no row names anything else; `domain` before others."""
    names = dict.fromkeys(name for row in rows for name in column_names(row))
    for name in sorted(names, key=lambda name: name != "domain"):
        values = {json.dumps(value_at(row, name)) for row in rows} - {"null", '""'}
        if values and values <= {json.dumps(domain) for domain in domains}:
            return name
    return None


# ----------------------------------------------------------------------------------------- held out


def split(rows: Sequence[Row], column: str, share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to hold out, in their order.

    By a hash of the prompt, without case and spacing: the same prompt is always on the same side, whatever
    the order, and more rows, or a larger share, move nothing back.
    """
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[position(value_at(row, column)) < share].append(row)
    return sides


def position(prompt: object) -> float:
    """Where in [0, 1) a prompt falls."""
    return int(prompt_key(prompt)[:13], 16) / 16**13


def prompt_key(prompt: object) -> str:
    """Digest of what is asked."""
    text = " ".join(prompt_text(prompt).split()).casefold()
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def problems_of(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Held-out rows as a benchmark's problems: `prompt` a text, `answer`, each prompt once.

    A column `id` is kept where it tells the problems apart.
    """
    answer = columns.answer
    assert answer is not None, "what is judged has an answer"
    once = {prompt_key(value_at(row, columns.prompt)): row for row in reversed(rows)}
    chosen = list(reversed(once.values()))
    ids = [str(row.get("id")) for row in chosen]
    dropped = set() if len(set(ids)) == len(ids) else {"id"}
    return [
        {name: value for name, value in row.items() if name not in dropped}
        | {"prompt": prompt_text(value_at(row, columns.prompt)), "answer": value_at(row, answer)}
        for row in chosen
    ]


def as_jsonl(rows: Sequence[Row], place: str) -> str:
    """The rows as text; raises ConfigError for what JSON cannot hold."""
    return "".join(_lines(rows, place))


def _lines(rows: Sequence[Row], place: str) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        try:
            line = json.dumps(row, ensure_ascii=False)
            line.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
            line = json.dumps(row)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{place}, row {number}: cannot be written as JSON: {error}") from None
        yield line + "\n"
