"""The headline: whether the student beats all its teachers, and every primary question in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.words import counted
from eval.report.data import (
    AllTeachers,
    ModelRow,
    Outcome,
    Question,
    QuestionKind,
    ReportData,
    Score,
    best_merge,
    decodings,
    primary_benchmark,
)
from eval.report.sections.headroom import DecodingShare
from eval.report.wording import (
    NOT_MEASURED,
    OUTCOMES,
    claim,
    control_text,
    controls_of,
    decoding,
    interval,
    label,
    numbers,
    p_text,
    points,
)
from eval.statistics.questions import MOST_PROBLEMS

ONE_TRAINING = (
    "This is one training run. Its intervals and p-values cover the draw of problems and answers, not the "
    "noise of training: another seed may move the student by more than they allow"
)
PICKED = (
    "The best weight merge is the most accurate of those evaluated, picked on these very problems, which "
    "favours the merge"
)
WITHOUT: Mapping[QuestionKind, str] = {"own teacher": "a teacher", "best weight merge": "a weight merge"}
"""What a question is about where there is no such model."""


def sentence(questions: Sequence[Question], claimed: AllTeachers) -> str:
    """The headline, whichever way it falls, without a full stop."""
    own, merges = (
        [question for question in questions if question.kind == kind]
        for kind in ("own teacher", "best weight merge")
    )
    modes = " and ".join(dict.fromkeys(question.mode for question in own))
    every = f"every teacher in its own domain{modes and ', '}{modes}"
    merge = f"the best weight merge in {_tally(merges)}" if merges else ""
    if claimed.p_value is None:
        start = f"It was {NOT_MEASURED} whether the student beats {every}, because {claimed.absent}"
        return f"{start}; it beats {merge}" if merge else start
    largest = f"largest {p_text(claimed.p_value)}"
    if claimed.outcome == "beats":
        start = f"The student beats {every} ({largest} of {counted(len(own), 'question')})"
    else:
        behind = any(question.row.difference <= 0 for question in own if question.row)
        notes = [] if behind else [largest]
        start = f"The student is not shown to beat {every}: it beats its teacher in {_tally(own, notes)}"
    return f"{start}, and {merge}" if merge else start


def _tally(questions: Sequence[Question], notes: Sequence[str] = ()) -> str:
    """`3 of 4 (1 not decided)`: how many the student beats, and how the others came out."""
    outcomes = [question.outcome for question in questions]
    rest = [
        f"{outcomes.count(outcome)} {outcome}"
        for outcome in OUTCOMES
        if outcome in outcomes and outcome != "beats"
    ]
    told = "; ".join(filter(None, [", ".join(rest), *notes]))
    return f"{outcomes.count('beats')} of {len(outcomes)}" + (f" ({told})" if told else "")


def question_sentence(data: ReportData, question: Question) -> str:
    """One question and its answer, with what decides it and what a win must be read beside."""
    other = next((m for m in data.models if m.name == question.against), None)
    against = label(other) if other else WITHOUT[question.kind]
    picked = " (the best weight merge)" if question.kind == "best weight merge" else ""
    where = f"{question.domain}, {decoding(question.mode, data.temperature)}"
    row = question.row
    if row is None or other is None or question.benchmark is None:
        return f"{where}: {NOT_MEASURED} against {against}, because {question.absent}"
    claimed = claim("the student", row.verdict, against + picked)
    said = f"{where}: {claimed}: {numbers(row)}, adjusted {p_text(row.p_adjusted)}"
    if row.verdict == "not decided":
        return f"{said}; {deciding_text(question)}"
    if row.verdict == "beats" and question.kind == "own teacher":
        for control in controls_of(data.models, question.domain):
            said += control_text(control, data.comparison(control.name, question.benchmark))
    return said


def deciding_text(question: Question) -> str:
    """How many problems would decide an undecided question."""
    return f"{deciding_number(question)} problems with this difference and spread would decide it"


def deciding_number(question: Question) -> str:
    """The number alone, empty for a question that is decided or was not measured."""
    if question.outcome != "not decided":
        return ""
    return f"more than {MOST_PROBLEMS:,}" if question.deciding is None else f"about {question.deciding:,}"


@dataclass(frozen=True)
class QuestionRow:
    """A question of the primary family as it is shown."""

    question: Question
    where: str
    """Domain and decoding."""
    against: str
    sentence: str
    deciding: str


def question_rows(data: ReportData) -> list[QuestionRow]:
    """Every question in the order of the domains."""
    named = {model.name: label(model) for model in data.models}
    return [
        QuestionRow(
            question,
            f"{question.domain}, {decoding(question.mode, data.temperature)}",
            named.get(question.against or "", WITHOUT[question.kind]),
            question_sentence(data, question),
            deciding_number(question),
        )
        for question in data.questions
    ]


# ------------------------------------------------------------------------------------- the small table


@dataclass(frozen=True)
class Cell:
    """One model in the headline's table."""

    model: ModelRow | None
    score: Score | None
    outcome: Outcome | None = None
    """Of the student against it; None for the student and the base, which is no primary question."""


@dataclass(frozen=True)
class HeadRow:
    """One domain at one decoding."""

    domain: str
    decoding: str
    cells: Mapping[str, Cell]
    """By column: student, own teacher, best weight merge, base."""

    @property
    def n(self) -> int | None:
        """Problems of the student's score; None where it has none."""
        score = self.cells["Student"].score
        return score.problems if score else None


def head_rows(data: ReportData) -> list[HeadRow]:
    """The headline's table: a row for each domain and decoding that has a benchmark."""
    asked = {(q.kind, q.domain, q.mode): q.outcome for q in data.questions}
    base = next((model for model in data.models if model.role == "base"), None)
    rows = []
    for domain in data.domains:
        teacher = next((m for m in data.models if m.role == "teacher" and m.domain == domain), None)
        for mode in decodings(data.benchmarks):
            info = primary_benchmark(data.benchmarks, domain, mode)
            if info is None:
                continue
            shown = {
                "Student": (data.student, None),
                "Own teacher": (teacher, asked.get(("own teacher", domain, mode))),
                "Best weight merge": (
                    best_merge(data.models, info.name),
                    asked.get(("best weight merge", domain, mode)),
                ),
                "Base": (base, None),
            }
            cells = {
                column: Cell(model, model.scores.get(info.name) if model else None, outcome)
                for column, (model, outcome) in shown.items()
            }
            rows.append(HeadRow(domain, decoding(mode, data.temperature), cells))
    return rows


# ------------------------------------------------------------------------------------ shares of the way


def share_sentences(data: ReportData) -> list[str]:
    """How much of the way from the base to the routed oracle the student has come, at each decoding."""
    return [
        f"{decoding(share.mode, data.temperature)}: {text}"
        for share in data.shares
        for text in ([f"not given, because {share.absent}"] if share.absent else _share_texts(share))
    ]


def _share_texts(share: DecodingShare) -> list[str]:
    macro, worst = share.macro, share.worst
    assert macro is not None and worst is not None, "neither is absent"
    gap = f"{points(macro.gap, plus=True)} points, 95% interval {interval(macro.gap_lo, macro.gap_hi)}"
    whole, smallest = "in the mean over the domains", "in the worst domain"
    if macro.ratio is None or macro.lo is None or macro.hi is None:
        first = f"{whole} not given, because the routed oracle is not clearly above the base ({gap})"
    else:
        found = f"{points(macro.ratio)}% of the way, 95% interval {interval(macro.lo, macro.hi)}"
        first = f"{whole} {found} (the way: {gap})"
    if worst.ratio is None or worst.lo is None or worst.hi is None:
        unclear = ", ".join(worst.unclear)
        second = f"{smallest} not given, because the teacher is not clearly above the base in {unclear}"
    else:
        found = f"{points(worst.ratio)}%, 95% interval {interval(worst.lo, worst.hi)}"
        second = f"{smallest} ({worst.domain}) {found}"
    return [first, second]


# -------------------------------------------------------------------------------------------- JSON


def to_json(shown: QuestionRow, margin: float) -> dict[str, Any]:
    """Plain values for `report.json`; null for what was not measured."""
    question, row = shown.question, shown.question.row
    return {
        "family": "primary",
        "kind": question.kind,
        "domain": question.domain,
        "mode": question.mode,
        "benchmark": question.benchmark,
        "against": question.against,
        "difference": row and row.difference,
        "interval": row and [row.lo, row.hi],
        "n": row and row.n,
        "p_value": row and row.p_value,
        "p_adjusted": row and row.p_adjusted,
        "family_size": row and row.family,
        "margin": margin,
        "outcome": question.outcome,
        "problems_to_decide": question.deciding,
        "sentence": shown.sentence,
    }
