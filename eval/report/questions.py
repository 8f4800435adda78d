"""Which questions a report answers, in which family each is corrected, and what is concluded from each.

The primary family is declared by the config before anything is trained: for every domain and decoding, the
student against the domain's own teacher, and against the best weight merge. Every other comparison is
secondary and corrected in a family of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from eval.report.data import (
    ORACLE_BASELINE,
    WEIGHT_MERGES,
    AllTeachers,
    BenchmarkInfo,
    ComparisonRow,
    Evaluation,
    ModelRow,
    Question,
    best_merge,
    decodings,
    find_comparison,
    primary_benchmark,
)
from eval.report.wording import why_missing
from eval.statistics.intervals import holm
from eval.statistics.questions import SIGNIFICANT, deciding_problems, intersection_p, outcome

if TYPE_CHECKING:
    from eval.records import Mode

Key = tuple[str, str, str]
"""Model, other model and benchmark of a comparison."""


def judged(
    evaluation: Evaluation, domains: Sequence[str], margin: float
) -> tuple[Evaluation, tuple[Question, ...]]:
    """The evaluation with every comparison's corrected p-value and verdict, and the primary family's answers.

    margin: the difference that does not matter, in [0, 1].
    """
    declared = tuple(_declared(evaluation, domains))
    asked = {_key(question.row) for question in declared if question.row is not None}
    rows = (*evaluation.comparisons, *evaluation.before_polish)
    primary = _corrected([row for row in rows if _key(row) in asked], margin, primary=True)
    # the oracle's answers are the teachers': its comparisons repeat theirs and are counted once
    other = [row for row in rows if _key(row) not in asked and row.against != ORACLE_BASELINE]
    found = {_key(row): row for row in (*primary, *_corrected(other, margin))}
    found |= {
        _key(row): _as_teachers(row, evaluation, found) for row in rows if row.against == ORACLE_BASELINE
    }
    changed = replace(
        evaluation,
        comparisons=tuple(found[_key(row)] for row in evaluation.comparisons),
        before_polish=tuple(found[_key(row)] for row in evaluation.before_polish),
    )
    questions = tuple(
        question if question.row is None else _answered(question, found[_key(question.row)], margin)
        for question in declared
    )
    return changed, questions


def all_teachers(questions: Sequence[Question]) -> AllTeachers:
    """Whether the student beats every teacher in its own domain, at every decoding that was evaluated."""
    own = [question for question in questions if question.kind == "own teacher"]
    absent = next((q for q in own if q.row is None), None)
    if absent is not None or not own:
        why = f"{absent.domain}: {absent.absent}" if absent else "no domain was evaluated"
        return AllTeachers(None, "not measured", why)
    measured = [(q.row.difference, q.row.p_value) for q in own if q.row and q.row.p_value is not None]
    p_value = intersection_p(measured)
    return AllTeachers(p_value, "beats" if p_value <= SIGNIFICANT else "not shown")


def _declared(evaluation: Evaluation, domains: Sequence[str]) -> Iterator[Question]:
    """The primary family, each question with its comparison, which is not judged yet."""
    has_merges = any(m.role == "baseline" and m.name in WEIGHT_MERGES for m in evaluation.models)
    for domain in domains:
        teacher = next((m for m in evaluation.models if m.role == "teacher" and m.domain == domain), None)
        infos: list[tuple[Mode, BenchmarkInfo | None]] = [
            (mode, primary_benchmark(evaluation.benchmarks, domain, mode))
            for mode in decodings(evaluation.benchmarks)
        ]
        if not any(info for _, info in infos):
            name = teacher and teacher.name
            yield Question("own teacher", domain, "sampled", None, name, absent="the domain has no benchmark")
            continue
        for mode, info in infos:
            if info is None:
                continue
            asked = Question("own teacher", domain, mode, info.name, teacher and teacher.name)
            yield _measured(asked, evaluation, info, teacher, "the domain has no teacher here")
            if has_merges:
                merge = best_merge(evaluation.models, info.name)
                asked = Question("best weight merge", domain, mode, info.name, merge and merge.name)
                yield _measured(asked, evaluation, info, merge, "no weight merge has a judged answer")


def _measured(
    asked: Question, evaluation: Evaluation, info: BenchmarkInfo, other: ModelRow | None, without: str
) -> Question:
    """The question with its comparison, or with the reason why there is none."""
    if other is None:
        return replace(asked, absent=without)
    row = find_comparison(evaluation.comparisons, other.name, info.name)
    absent = "" if row else why_missing(evaluation, other, info)
    return replace(asked, row=row, absent=absent)


def _corrected(
    rows: Sequence[ComparisonRow], margin: float, primary: bool = False
) -> Iterator[ComparisonRow]:
    """One family: its p-values corrected for their number, and what they show."""
    measured = [row for row in rows if row.p_value is not None]
    adjusted = holm([row.p_value for row in measured if row.p_value is not None])
    for row, p_adjusted in zip(measured, adjusted, strict=True):
        verdict = outcome(row.difference, row.lo, row.hi, p_adjusted, margin)
        yield replace(row, p_adjusted=p_adjusted, verdict=verdict, family=len(measured), primary=primary)
    yield from (row for row in rows if row.p_value is None)


def _as_teachers(
    row: ComparisonRow, evaluation: Evaluation, found: dict[Key, ComparisonRow]
) -> ComparisonRow:
    """The oracle's comparison, judged as that with the teacher whose answers it repeats."""
    domain = next(info.domain for info in evaluation.benchmarks if info.name == row.benchmark)
    teacher = next((m for m in evaluation.models if m.role == "teacher" and m.domain == domain), None)
    own = found.get((row.model, teacher.name, row.benchmark)) if teacher else None
    return row if own is None else replace(own, against=row.against, primary=False)


def _answered(question: Question, row: ComparisonRow, margin: float) -> Question:
    if row.verdict != "not decided":
        return replace(question, row=row)
    number = deciding_problems(row.difference, row.spread, row.n, row.family, margin)
    return replace(question, row=row, deciding=number)


def _key(row: ComparisonRow) -> Key:
    return row.model, row.against, row.benchmark
