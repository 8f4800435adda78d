"""Writes a comparison: `compare.md`, `compare.html` (one file, no network, no script) and `compare.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.words import duration
from eval.compared import wording
from eval.compared.data import STUDENT, Compared, ModelComparison, RunRecord, Setting
from eval.report.render import TEMPLATES as REPORT_FILES
from eval.report.render import dumps, environment, write_texts
from eval.report.sections.trained_lambda import to_json as to_trained_json
from eval.report.wording import SIGNS

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent


def write_compared(data: Compared, folder: Path) -> dict[str, Path]:
    """Writes the three files into `folder`, each whole or not at all; returns them by suffix."""
    texts = {"md": to_markdown(data), "html": to_html(data), "json": dumps(to_json(data))}
    return write_texts(folder, "compare", texts)


def to_markdown(data: Compared) -> str:
    """The comparison for a terminal or a code host."""
    return _environment(autoescape=False).get_template("compare.md.jinja").render(_context(data))


def to_html(data: Compared) -> str:
    """The comparison as one page that loads nothing; every text from outside is escaped."""
    css = (REPORT_FILES / "report.css").read_text(encoding="utf-8")
    page = _environment(autoescape=True).get_template("compare.html.jinja")
    return page.render(_context(data), css=css)


def _environment(autoescape: bool) -> Environment:
    made = environment(autoescape, TEMPLATES)
    made.filters |= {
        "value_text": wording.value_text,
        "scales_text": wording.scales_text,
        "label_of": wording.label_of,
        "not_compared_sentence": wording.not_compared_sentence,
    }
    return made


def _context(data: Compared) -> dict[str, Any]:
    return {
        "data": data,
        "runs": (("First", data.first), ("Second", data.second)),
        "signs": SIGNS,
        "students": wording.student_sentences(data),
        "others": wording.other_sentences(data),
        "tables": _tables(data),
        "limits": wording.limits(data),
        "stages": _stages(data),
    }


def _tables(data: Compared) -> list[tuple[str, list[list[ModelComparison]]]]:
    """The students' rows, then those of all other models, grouped by model."""
    models = dict.fromkeys(row.model for row in data.rows)
    groups = {model: [row for row in data.rows if row.model == model] for model in models}
    student = [groups[STUDENT]] if STUDENT in groups else []
    others = [rows for model, rows in groups.items() if model != STUDENT]
    named = (("The students", student), ("The other models", others))
    return [(title, rows) for title, rows in named if rows]


def _stages(data: Compared) -> list[tuple[str, str, str]]:
    """Wall time of every stage of either run, and the sums."""
    ours, theirs = data.first.wall_seconds, data.second.wall_seconds
    rows = [(stage, _time(ours, stage), _time(theirs, stage)) for stage in dict.fromkeys([*ours, *theirs])]
    return [*rows, ("in all", duration(sum(ours.values())), duration(sum(theirs.values())))]


def _time(seconds: Mapping[str, float], stage: str) -> str:
    return duration(seconds[stage]) if stage in seconds else wording.ABSENT


# -------------------------------------------------------------------------------------------- JSON


def to_json(data: Compared) -> dict[str, Any]:
    """Plain values; accuracies in [0, 1], differences in [-1, 1]. A run without a key has no entry for it."""
    return {
        "created": data.created,
        "sentences": wording.sentences(data),
        "first": _run_json(data.first),
        "second": _run_json(data.second),
        "margin": data.margin,
        "comparisons": [_row_json(row) for row in data.rows],
        "not_compared": [vars(item) for item in data.not_compared],
        "caveats": list(data.caveats),
        "config": [_setting_json(setting) for setting in data.config],
        "provenance": [_setting_json(setting) for setting in data.provenance],
        "limits": wording.limits(data),
    }


def _run_json(run: RunRecord) -> dict[str, Any]:
    return {
        "run": run.label,
        "path": run.path,
        "created": run.created,
        "reward_scale": dict(run.reward_scales),
        "trained": to_trained_json(run.trained_lambda),
        "wall_seconds": dict(run.wall_seconds),
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def _row_json(row: ModelComparison) -> dict[str, Any]:
    return {
        "model": row.model,
        "role": row.role,
        "benchmark": row.benchmark,
        "domain": row.domain,
        "mode": row.mode,
        "accuracy": {"first": row.first, "second": row.second},
        "difference": row.difference,
        "interval": [row.lo, row.hi],
        "n": row.n,
        "p_value": row.p_value,
        "p_adjusted": row.p_adjusted,
        "verdict": row.verdict,
        "unscored": row.unscored,
        "same_answers": row.same_answers,
    }


def _setting_json(setting: Setting) -> dict[str, Any]:
    return {"key": setting.key, **setting.values}
