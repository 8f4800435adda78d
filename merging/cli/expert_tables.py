"""Experts as a person reads them: a list, one record, what an import found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.words import in_its_unit
from teachers.evaluation import sentence
from teachers.registry.records import ExpertRecord

NOT_RECORDED = "not recorded"
NOT_MEASURED = "not measured"
WIDE = 200
"""Columns where there is no terminal whose width counts."""


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=WIDE)


def print_list(records: Sequence[ExpertRecord]) -> None:
    """One row an expert."""
    table = Table("id", "domain", "kind", "accuracy", "size", "created", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for record in records:
        table.add_row(
            record.id, Text(record.domain), record.kind, Text(accuracies(record)), size(record.size_bytes),
            record.created[:16].replace("T", " "),
        )  # fmt: skip
    _console().print(table)


def accuracies(record: ExpertRecord) -> str:
    """Sampled accuracies by benchmark, greedy ones where no other was measured."""
    measured = record.evaluation or {}
    chosen = {name: score for name, score in measured.items() if not name.endswith("@greedy")} or measured
    texts = [
        f"{name} {NOT_MEASURED if s['accuracy'] is None else format(s['accuracy'], '.1%')} (n {s['n']})"
        for name, s in chosen.items()
    ]
    return ", ".join(texts) or NOT_MEASURED


def size(size_bytes: int | None) -> str:
    """Bytes in the unit that suits them."""
    return NOT_RECORDED if size_bytes is None else in_its_unit(size_bytes)


def distance(record: ExpertRecord) -> str:
    """How far the weights are from the base's, in words."""
    found = record.distance
    if found is None:
        return NOT_RECORDED
    if "not_measured" in found:
        return f"{NOT_MEASURED}: {found['not_measured']}"
    changed = f"{found['changed_share']:.0%} of {found['tensors']} tensors changed"
    text = f"relative L2 {found['relative_l2']:.3g}, {changed}"
    largest = found["largest"]
    if largest is None:
        return text
    change = "from zero" if largest["relative_l2"] is None else f"{largest['relative_l2']:.3g}"
    return f"{text}, most {largest['name']} ({change})"


def print_record(record: ExpertRecord) -> None:
    """Everything that is known of an expert."""
    _print_rows(_rows(record))


def print_imported(record: ExpertRecord) -> None:
    """What an import checked and measured."""
    rows = [
        ("expert", f"{record.id} ({record.domain})"),
        ("from", record.source or NOT_RECORDED),
        ("fits the student", "tokenizer, EOS and chat template are the same"),
        ("distance from base", distance(record)),
        *_scores(record),
        ("size", size(record.size_bytes)),
        ("folder", record.path),
    ]
    _print_rows(rows)


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows:
        table.add_row(Text(name), Text(value, overflow="fold"))
    _console().print(table)


def _rows(record: ExpertRecord) -> list[tuple[str, str]]:
    facts, base = record.fingerprint or {}, record.base or {}
    reward = None if record.final_reward is None else f"{record.final_reward:.3f}"
    seconds = None if record.wall_seconds is None else f"{record.wall_seconds:.0f} s"
    built = record.kind == "built"
    return [
        ("id", record.id),
        ("domain", record.domain),
        ("kind", record.kind),
        ("created", record.created),
        *([] if built else [("from", _said(record.source))]),
        ("base", _said(base.get("path"))),
        ("base weights", _said(record.base_sha256)),
        ("parent", _said(record.parent)),
        ("weights", record.weights_sha256),
        ("architecture", _said(facts.get("architecture"))),
        ("parameters", _said(facts.get("parameters"))),
        ("context", _said(facts.get("max_position_embeddings"))),
        ("tokenizer", _said(facts.get("tokenizer_sha256"))),
        ("EOS ids", _said(facts.get("eos_token_ids"))),
        ("chat template", _said(facts.get("chat_template_sha256"))),
        *(_training(record, reward, seconds) if built else []),
        ("distance from base", distance(record)),
        *_scores(record),
        ("size", size(record.size_bytes)),
        ("files", _said(None if record.files is None else ", ".join(record.files))),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("folder", record.path),
    ]


def _training(record: ExpertRecord, reward: str | None, seconds: str | None) -> list[tuple[str, str]]:
    recipe: dict[str, Any] = record.identity.get("recipe") or {}
    return [
        ("recipe", _said(", ".join(f"{key} {value}" for key, value in recipe.items()) or None)),
        ("prompts", _said(record.prompts)),
        ("data", _said(record.data_sha256 or record.identity.get("prompts"))),
        ("longest sequence", _said(record.trained_tokens)),
        ("seed", _said(record.seed)),
        ("final reward", reward or NOT_MEASURED),
        ("learning curve", _said(record.learning_curve)),
        ("time", _said(seconds)),
        ("resumed", _said(record.resumed)),
    ]


def _scores(record: ExpertRecord) -> Iterator[tuple[str, str]]:
    if record.evaluation is None:
        yield "accuracy", NOT_MEASURED
        return
    settings = record.evaluation_settings or {}
    yield "evaluated with", _said(", ".join(f"{k} {v}" for k, v in settings.items() if v != {}) or None)
    for name, score in record.evaluation.items():
        yield "accuracy", sentence(name, score)
        if score.get("base"):
            yield "  its base", sentence(name, score["base"])
            yield "  difference", _difference(score)


def _difference(score: Mapping[str, Any]) -> str:
    if score["difference"] is None:
        return NOT_MEASURED
    lo, hi = (100 * end for end in score["difference_interval"])
    return f"{100 * score['difference']:+.1f} points (95% interval {lo:+.1f} to {hi:+.1f})"


def _said(value: object) -> str:
    return NOT_RECORDED if value is None else str(value)
