"""What the report does not show, said plainly."""

from __future__ import annotations

from collections.abc import Iterator

from common.words import counted
from eval.report.data import ReportData, decodings, primary_benchmark
from eval.report.headline import ONE_TRAINING, PICKED
from eval.report.wording import benchmark_label, label, percent, points


def limits_of(data: ReportData) -> Iterator[str]:
    """The limits that follow from what was and was not measured, one sentence or two each."""
    yield f"{ONE_TRAINING}."
    yield from _families(data)
    yield from _missing(data)
    yield from _unscored(data)
    yield from _ceilings(data)
    yield "Nothing outside these benchmarks was tested, such as other tasks, languages, chat or safety."


def _families(data: ReportData) -> Iterator[str]:
    """What the p-values are corrected for, and what the intervals are not."""
    rows = [*data.comparisons, *data.before_polish]
    sizes = {row.primary: row.family for row in rows}
    if rows:
        yield (
            f"The p-values of the {counted(sizes.get(True, 0), 'primary question')} are corrected for each "
            f"other (Holm), those of the {counted(sizes.get(False, 0), 'secondary comparison')} for each "
            "other. The 95% intervals are not corrected: about 1 in 20 of them misses by chance alone."
        )
        yield (
            f"Level means that a 95% interval lies within {points(data.margin)} points on both sides. Where "
            "the true difference is that large, such a verdict is wrong in 1 of 40 reports; it is not "
            "corrected for the number of questions."
        )
    if any(question.kind == "best weight merge" for question in data.questions):
        yield f"{PICKED}: of several merges that are as good as the student, one may come out above it."
    elif data.benchmarks:
        yield "No weight merge was evaluated, so nothing is known about this cheapest alternative."
    if data.benchmarks and "greedy" not in decodings(data.benchmarks):
        yield (
            "Greedy answers were not evaluated: a gain at the sampling temperature may be a sharper "
            "distribution and no better first choice."
        )


def _missing(data: ReportData) -> Iterator[str]:
    for domain in data.domains:
        if primary_benchmark(data.benchmarks, domain) is None:
            yield f"{domain}: no benchmark, so nothing is known about this domain."
    for model in data.models:
        asked = [b for b in data.benchmarks if model.is_asked(b.domain)]
        absent = [benchmark_label(b) for b in asked if b.name not in model.scores]
        if absent and len(absent) == len(asked):
            yield f"{_start(label(model))} was not measured."
        elif absent:
            yield f"{_start(label(model))} was not measured on {', '.join(absent)}."


def _unscored(data: ReportData) -> Iterator[str]:
    own = {b.name for b in data.benchmarks if not b.pools}
    for model in data.models:
        count = sum(score.unscored for key, score in model.scores.items() if key in own)
        if count:
            total = sum(score.n + score.unscored for key, score in model.scores.items() if key in own)
            yield (
                f"{_start(label(model))}: {count} of {total} answers could not be judged and count as "
                "neither right nor wrong."
            )


def _ceilings(data: ReportData) -> Iterator[str]:
    ceilings = {b.name.removesuffix("@greedy"): b.ceiling for b in data.benchmarks}
    for name, ceiling in ceilings.items():
        if ceiling is not None and ceiling < 1:
            yield (
                f"{name}: its own reference solutions reach {percent(ceiling)} with "
                "this grader, so 100% is out of reach."
            )


def _start(text: str) -> str:
    return text[0].upper() + text[1:]
