"""Writes the report: `report.md`, `report.html` (one file, no network, no script) and `report.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_text
from common.words import duration
from eval.report import figures, headline, wording
from eval.report.data import DISTILLED, OPD_MORE_BASELINE, ComparisonRow, ModelRow, ReportData
from eval.report.sections import headroom, polished, probed, prompts, scores, trained_lambda
from eval.report.sections.curves import Series, panels

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent
AT_K = (
    "Means over n problems, with 95% interval. pass@k: chance that one of k sampled answers is right, "
    "estimated without bias from all judged ones, of problems with at least k of them."
)
MAJORITY = " maj@k: a vote among all judged answers to a problem; programs cannot be voted on (\N{EN DASH})."
HEAD_CHARACTERS, TAIL_CHARACTERS = 700, 500
"""What is shown of a long text: its start, and its end, where the final answer is."""


def write_report(data: ReportData, folder: Path) -> dict[str, Path]:
    """Writes the three files into `folder`, each whole or not at all; returns them by suffix."""
    texts = {"md": to_markdown(data), "html": to_html(data), "json": dumps(to_json(data))}
    return write_texts(folder, "report", texts)


def write_texts(folder: Path, name: str, texts: Mapping[str, str]) -> dict[str, Path]:
    """Writes `<name>.<suffix>` for every suffix, each whole or not at all; returns the files by suffix.

    An answer's character that UTF-8 does not know becomes a question mark.
    """
    files = {suffix: folder / f"{name}.{suffix}" for suffix in texts}
    for suffix, file in files.items():
        write_text(file, texts[suffix], errors="replace")
    return files


# -------------------------------------------------------------------------------------------- JSON


def to_json(data: ReportData) -> dict[str, Any]:
    """The report as plain values; accuracies in [0, 1], null for what was not measured."""
    return {
        "run": data.run,
        "created": data.created,
        "domains": list(data.domains),
        "headline": {
            "sentence": headline.sentence(data.questions, data.all_teachers),
            "outcome": data.all_teachers.outcome,
            "p_value": data.all_teachers.p_value,
        },
        "questions": [headline.to_json(row, data.margin) for row in headline.question_rows(data)],
        "verdicts": [
            {
                "domain": v.domain,
                "against": v.against,
                "role": v.role,
                "benchmark": v.benchmark,
                "outcome": v.outcome,
                "sentence": v.sentence,
            }
            for v in data.verdicts
        ],
        "opd": data.opd_sentence,
        "models": {model.name: _model_json(data, model) for model in data.models},
        "benchmarks": {
            b.name: {
                "domain": b.domain,
                "mode": b.mode,
                "description": b.description,
                "ceiling": b.ceiling,
                "pools": list(b.pools),
            }
            for b in data.benchmarks
        },
        "comparisons": [_comparison_json(row) for row in data.comparisons],
        "before_polish": [_comparison_json(row) for row in data.before_polish],
        "polish": polished.to_json(data.polished),
        "headroom": headroom.to_json(data.headroom, data.domains),
        "shares": headroom.shares_to_json(data.shares),
        "disagreements": {
            d.teacher: {
                "domain": d.domain,
                "mode": d.mode,
                "problems": d.problems,
                "student_only": d.student_only,
                "teacher_only": d.teacher_only,
            }
            for d in data.disagreements
        },
        "objective": {
            "reward_scale": dict(data.objective),
            "trained": trained_lambda.to_json(data.trained_lambda),
        },
        "probe": probed.to_json(data.probed),
        "routing": dict(data.routing),
        "trained": dict(data.trained),
        "prompts": prompts.to_json(data.prompts),
        "router": None if data.router is None else data.router.measured,
        "wall_seconds": dict(data.wall_seconds),
        "peak_memory_bytes": data.peak_memory_bytes,
        "provenance": dict(data.provenance),
        "notes": list(data.notes),
        "limits": list(data.limits),
    }


def dumps(report: Mapping[str, Any]) -> str:
    """JSON text; a NaN is our own mistake and raises."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _model_json(data: ReportData, model: ModelRow) -> dict[str, Any]:
    return {
        "role": model.role,
        "domain": model.domain,
        "path": model.path,
        "benchmarks": {b.name: scores.to_json(model.scores.get(b.name)) for b in data.benchmarks},
    }


def _comparison_json(row: ComparisonRow) -> dict[str, Any]:
    return {
        "model": row.model,
        "against": row.against,
        "benchmark": row.benchmark,
        "difference": row.difference,
        "interval": [row.lo, row.hi],
        "n": row.n,
        "p_value": row.p_value,
        "p_adjusted": row.p_adjusted,
        "family": row.family,
        "primary": row.primary,
        "verdict": row.verdict,
        "unscored": row.unscored,
    }


# --------------------------------------------------------------------------------- Markdown and HTML


def to_markdown(data: ReportData) -> str:
    """The report for a terminal or a code host: everything but the figures."""
    return environment(autoescape=False).get_template("report.md.jinja").render(_context(data))


def to_html(data: ReportData) -> str:
    """The report as one page that loads nothing; every text from outside is escaped."""
    found = panels(data.curves)
    return (
        environment(autoescape=True)
        .get_template("report.html.jinja")
        .render(
            _context(data),
            css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            headline_figure=figures.headline_figure(data),
            accuracy_figures=figures.accuracy_figures(data),
            curve_figures=figures.curve_figures(found, data.domains),
            probe_figure=figures.probe_figure(data),
            time_figure=figures.time_figure(data.wall_seconds),
        )
    )


def environment(autoescape: bool, templates: Path = TEMPLATES) -> Environment:
    """Jinja for the templates of a folder, with the filters of all reports."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for function in (
        wording.percent, wording.points, wording.interval, wording.p_text, wording.score_range,
        wording.score_text, duration, wording.memory, wording.label, wording.benchmark_label,
        wording.at_k_text, wording.p_number,
        clip, number, unbroken, md, md_code,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    return environment


def _context(data: ReportData) -> dict[str, Any]:
    return {
        "data": data,
        "signs": wording.SIGNS,
        "headline": headline.sentence(data.questions, data.all_teachers),
        "one_training": headline.ONE_TRAINING,
        "picked": headline.PICKED,
        "picked_here": any(question.kind == "best weight merge" for question in data.questions),
        "head_rows": headline.head_rows(data),
        "question_rows": headline.question_rows(data),
        "shares": headline.share_sentences(data),
        "verdicts": {d: [v for v in data.verdicts if v.domain == d] for d in data.domains},
        "scales": trained_lambda.in_one_line(data.objective, data.trained_lambda) or wording.NOT_MEASURED,
        "scale_texts": trained_lambda.texts(data.objective, data.trained_lambda),
        "at_k": _at_k(data),
        "headroom": _headroom(data),
        **prompts.tables(data.prompts),
        "polish": polished.told(data.polished),
        "stage_table": _stage_table(data),
        "teacher_groups": _comparison_groups(data, [m for m in data.models if _is_teacher(m)]),
        "other_groups": _comparison_groups(
            data, [m for m in data.models if m.role != "student" and not _is_teacher(m)]
        ),
        "sizes": {row.primary: row.family for row in (*data.comparisons, *data.before_polish)},
        "curve_rows": [(p, s, _curve_summary(s)) for p in panels(data.curves) for s in p.series],
        "missing_curves": _missing_curves(data),
        "router": data.router,
        "total_seconds": sum(data.wall_seconds.values()),
    }


def _is_teacher(model: ModelRow) -> bool:
    """Whether it is a teacher, or one that was trained on."""
    return model.role == "teacher" or (model.role == "baseline" and model.domain is not None)


def _stage_table(data: ReportData) -> prompts.Table | None:
    """What each stage of the training gained on every benchmark; None where the student was not polished."""
    if data.polished is None:
        return None
    gains = [("distillation: distilled student minus", row) for row in data.before_polish]
    gains += [("polish: student minus", row) for row in data.comparisons if row.against == DISTILLED]
    named = {model.name: wording.label(model) for model in data.models}
    gains += [("control: student minus", row) for row in data.comparisons if row.against == OPD_MORE_BASELINE]
    keys = {info.name: wording.benchmark_label(info) for info in data.benchmarks}
    rows = [
        [
            keys[row.benchmark],
            f"{stage} {named[row.against]}",
            wording.points(row.difference, plus=True),
            wording.interval(row.lo, row.hi),
            str(row.n),
            row.verdict,
        ]
        for stage, row in sorted(gains, key=lambda gain: list(keys).index(gain[1].benchmark))
    ]
    heads = ["Benchmark", "Stage", "Difference (points)", "95% interval", "n", "Verdict"]
    return prompts.Table(heads, rows)


def _comparison_groups(data: ReportData, models: Sequence[ModelRow]) -> list[list[dict[str, Any]]]:
    """For each of these models, the student against it on every benchmark that it is asked."""
    return [
        [
            {
                "model": model,
                "benchmark": info,
                "student": data.student.scores.get(info.name),
                "other": model.scores.get(info.name),
                "row": data.comparison(model.name, info.name),
            }
            for info in data.benchmarks
            if model.is_asked(info.domain)
        ]
        for model in models
        if data.benchmarks
    ]


def _at_k(data: ReportData) -> dict[str, Any] | None:
    """Column heads and rows of what several answers achieve; None where each problem has one answer."""
    scored = [
        (model, info, score)
        for model in data.models
        for info in data.benchmarks
        if (score := model.scores.get(info.name)) is not None and score.pass_at
    ]
    ks = sorted({found.k for _, _, score in scored for found in score.pass_at})
    if ks in ([], [1]):
        return None
    votes = sorted({score.majority.k for _, _, score in scored if score.majority})
    rows = []
    for model, info, score in scored:
        rates = {found.k: found for found in score.pass_at}
        rows.append((model, info, [*map(rates.get, ks), *([score.majority] if votes else [])]))
    heads = [f"pass@{k}" for k in ks] + ([f"maj@{' or '.join(map(str, votes))}"] if votes else [])
    return {"heads": heads, "rows": rows, "caption": AT_K + (MAJORITY if votes else "")}


def _headroom(data: ReportData) -> list[str]:
    """A sentence for every domain with a benchmark and a teacher of its own."""
    found = {h.domain: h for h in data.headroom}
    benchmarked = {info.domain for info in data.benchmarks}
    teachers = {m.domain: wording.label(m) for m in data.models if m.role == "teacher"}
    return [
        wording.headroom_sentence(domain, found.get(domain), teachers[domain])
        for domain in data.domains
        if domain in benchmarked and domain in teachers
    ]


def _curve_summary(series: Series) -> dict[str, str]:
    values = series.values
    named = {"first": values[0], "last": values[-1], "lowest": min(values), "highest": max(values)}
    return {name: number(value) for name, value in named.items()}


def _missing_curves(data: ReportData) -> list[str]:
    """Stages that ran without leaving metrics."""
    return [stage for stage, rows in data.curves.items() if not rows]


# ----------------------------------------------------------------------------------------- filters


def number(value: float) -> str:
    """A metric with three significant digits, and no exponent for what a person reads at a glance."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", wording.MINUS)


def clip(text: str) -> str:
    """A text short enough to read: control characters made visible, the middle of a long one left out."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)
    left_out = len(text) - HEAD_CHARACTERS - TAIL_CHARACTERS
    if left_out < 100:
        return text
    gap = f"\n[{left_out} characters left out]\n"
    return text[:HEAD_CHARACTERS] + gap + text[-TAIL_CHARACTERS:]


def unbroken(sentence: str) -> str:
    """A sentence in which no line ends within `n = 250`."""
    return re.sub(r" ([=<]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", sentence)


def md(text: str) -> str:
    """Text as one line of Markdown that renders as itself, also in a table's cell."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", re.sub(r"\s+", " ", str(text)))


def md_code(text: str, info: str = "text") -> str:
    """Text as a fenced block; the fence is longer than any run of backticks within."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{info}\n{text.rstrip()}\n{fence}"
