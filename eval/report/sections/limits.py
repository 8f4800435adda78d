"""What the report does not show, said plainly."""

from __future__ import annotations

from collections.abc import Iterator

from eval.report.data import ReportData, primary_benchmark
from eval.report.wording import benchmark_label, label, percent, points


def limits_of(data: ReportData) -> Iterator[str]:
    """The limits that follow from what was and was not measured, one sentence or two each."""
    yield (
        "One training run is judged. The intervals cover the draw of problems and answers, not the "
        "training seed: another seed may move the student by more."
    )
    if data.comparisons:
        yield _many_comparisons(len(data.comparisons) + len(data.before_polish))
    yield from _detectable(data)
    yield from _missing(data)
    yield from _unscored(data)
    yield from _ceilings(data)
    yield "Nothing outside these benchmarks was tested, such as other tasks, languages, chat or safety."


def _many_comparisons(count: int) -> str:
    return (
        f"Each of the {count} paired comparisons has its own 95% interval, with no correction for their "
        f"number: about {max(1, round(count / 20))} of {count} may miss by chance alone. The adjusted "
        "p-values are corrected for it (Holm), and a verdict that they do not bear out says so."
    )


def _detectable(data: ReportData) -> Iterator[str]:
    """A match is no proof of equality: half the interval's width is what could be seen."""
    for verdict in data.verdicts:
        if verdict.role != "teacher" or verdict.outcome != "matches within noise":
            continue
        assert verdict.benchmark is not None, "a match was measured on a benchmark"
        row = data.comparison(verdict.against, verdict.benchmark)
        if row is not None and _is_own_teacher(data, verdict.against, verdict.domain):
            yield (
                f"{verdict.domain}: a match within noise is no proof of equality; with n = {row.n} a "
                f"difference below about {points((row.hi - row.lo) / 2)} points cannot be seen."
            )


def _is_own_teacher(data: ReportData, name: str, domain: str) -> bool:
    return any(m.name == name and m.role == "teacher" and m.domain == domain for m in data.models)


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
