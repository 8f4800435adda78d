"""How numbers are written and what is concluded from them, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from common.words import gib, mib
from eval.report.data import (
    DISTILLED,
    OPD_BASELINE,
    OPD_MORE_BASELINE,
    ORACLE_BASELINE,
    BenchmarkInfo,
    ComparisonRow,
    DomainVerdict,
    Evaluation,
    ModelInfo,
    ModelRow,
    Outcome,
    Score,
    find_comparison,
    primary_benchmark,
    student_of,
)
from eval.report.sections import trained_lambda

if TYPE_CHECKING:
    from eval.compared.data import ModelComparison
    from eval.records import Mode
    from eval.report.sections.headroom import Headroom
    from eval.statistics.at_k import AtK

NAMED = {ORACLE_BASELINE: "the routed oracle", DISTILLED: "the distilled student"}
"""Models that are called otherwise than by role and name."""
MINUS = "\N{MINUS SIGN}"
NOT_MEASURED: Final = "not measured"
OUTCOMES: tuple[Outcome, ...] = ("beats", "level", "not decided", "below", NOT_MEASURED)
"""Every outcome, from the best on."""
SIGNS: Mapping[Outcome, str] = {
    "beats": "\N{BLACK UP-POINTING TRIANGLE}",
    "level": "=",
    "not decided": "?",
    "below": "\N{BLACK DOWN-POINTING TRIANGLE}",
    NOT_MEASURED: "\N{EN DASH}",
}
"""Mark beside an outcome; the words always stand there too."""


# ----------------------------------------------------------------------------------------- numbers


def percent(value: float | None) -> str:
    """An accuracy or rate in [0, 1] as percent with one decimal, `not measured` for None."""
    return NOT_MEASURED if value is None else f"{100 * value:.1f}%"


def points(difference: float, plus: bool = False) -> str:
    """A difference in [-1, 1] in percentage points; keeps the digits that tell it from zero."""
    value = 100 * difference
    text = next((t for d in (1, 2, 3) if float(t := f"{abs(value):.{d}f}") != 0), "0.0")
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+" if plus else "") + text


def interval(lo: float, hi: float) -> str:
    """Ends of an interval of differences, in points."""
    return f"{points(lo)} to {points(hi)}"


def p_text(p_value: float | None) -> str:
    """A p-value with the precision it deserves."""
    if p_value is None:
        return NOT_MEASURED
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.{3 if p_value < 0.1 else 2}f}"


def p_number(p_value: float | None) -> str:
    """A p-value in a table's cell: the number alone."""
    return p_text(p_value).removeprefix("p ").removeprefix("= ")


def score_text(score: Score | None) -> str:
    """A score in one cell: accuracy, `unscored` where no answer could be judged, or `not measured`."""
    return "unscored" if score is not None and score.accuracy is None else percent(score and score.accuracy)


def score_range(score: Score | AtK | None) -> str:
    """Its 95% interval in percent, empty where there is none."""
    if score is None or score.lo is None or score.hi is None:
        return ""
    return f"{100 * score.lo:.1f} to {100 * score.hi:.1f}"


def at_k_text(found: AtK | None) -> str:
    """pass@k or maj@k in one cell with interval and problems; a dash where it is not defined."""
    if found is None:
        return "\N{EN DASH}"
    numbers = ", ".join(filter(None, [score_range(found), f"n = {found.n}"]))
    return f"{percent(found.accuracy)} ({numbers})"


def memory(size: int | None) -> str:
    """Bytes in GiB, or MiB below one."""
    if size is None:
        return NOT_MEASURED
    return gib(size) if size >= 2**30 else mib(size)


# --------------------------------------------------------------------------------------- sentences


def label(model: ModelInfo) -> str:
    """A model in running text: `teacher math`, `baseline average`, `the base`."""
    return label_of(model.name, model.role)


def label_of(name: str, role: str) -> str:
    """As `label`, from the model's name and role."""
    if role in ("base", "student"):
        return f"the {role}"
    if name in NAMED:
        return NAMED[name]
    return name if role in name.lower() else f"{role} {name}"


def benchmark_label(info: BenchmarkInfo) -> str:
    """A benchmark in a table: its name, or `math, pooled`, and its mode."""
    name = f"{info.domain}, pooled" if info.pools else info.name.removesuffix("@greedy")
    return name + (" (greedy)" if info.mode == "greedy" else "")


def decoding(mode: Mode, temperature: float) -> str:
    """How answers were drawn: `temperature 1`, or `greedy`."""
    return "greedy" if mode == "greedy" else f"temperature {temperature:g}"


def claim(who: str, outcome: Outcome, other: str) -> str:
    """What an outcome says of one model against another."""
    return {
        "beats": f"{who} beats {other}",
        "level": f"{who} is level with {other}",
        "not decided": f"not decided between {who} and {other}",
        "below": f"{who} is below {other}",
    }[outcome]


def numbers(row: ComparisonRow | ModelComparison) -> str:
    """Difference, interval and problems of a comparison, of this report or of two runs."""
    return f"{points(row.difference, plus=True)} points, 95% interval {interval(row.lo, row.hi)}, n = {row.n}"


def evidence(row: ComparisonRow) -> str:
    """The numbers behind a verdict."""
    return f"{numbers(row)}, adjusted {p_text(row.p_adjusted)}"


def verdicts(evaluation: Evaluation, domains: Sequence[str]) -> tuple[DomainVerdict, ...]:
    """A sentence for every domain and every other model: the domain's own teacher comes first.

    None about the oracle, which would repeat the one about that teacher.
    """
    found: list[DomainVerdict] = []
    others = [m for m in evaluation.models if m.role != "student" and m.name != ORACLE_BASELINE]
    for domain in domains:
        own_teachers = [m for m in others if m.role == "teacher" and m.domain == domain]
        if not own_teachers:
            sentence = f"{domain}: {NOT_MEASURED} against a teacher, because the domain has none here"
            found.append(DomainVerdict(domain, domain, "teacher", None, NOT_MEASURED, sentence))
        own_controls = controls_of(evaluation.models, domain)
        rest = [m for role in ("base", "baseline", "teacher") for m in others if m.role == role]
        rest = [m for m in rest if m not in (*own_teachers, *own_controls) and m.is_asked(domain)]
        found.extend(_verdict(evaluation, domain, m, own_controls) for m in own_teachers)
        found.extend(_verdict(evaluation, domain, m) for m in own_controls)
        more = [m for m in rest if m.name == OPD_MORE_BASELINE]
        found.extend(_verdict(evaluation, domain, m, more if m.name == DISTILLED else ()) for m in rest)
    return tuple(found)


def _verdict(
    evaluation: Evaluation, domain: str, other: ModelRow, controls: Sequence[ModelRow] = ()
) -> DomainVerdict:
    """About one other model; `controls` are what a verdict of "beats" must be read beside."""
    info = primary_benchmark(evaluation.benchmarks, domain)
    if info is None:
        why = "the domain has no benchmark"
        return _not_measured(domain, other, None, why)
    row = find_comparison(evaluation.comparisons, other.name, info.name)
    if row is None:
        return _not_measured(domain, other, info.name, why_missing(evaluation, other, info))
    sentence = f"{domain}: {claim('the student', row.verdict, label(other))}: {evidence(row)}"
    if row.verdict == "beats":
        sentence += "".join(
            control_text(control, find_comparison(evaluation.comparisons, control.name, info.name))
            for control in controls
        )
    return DomainVerdict(domain, other.name, other.role, info.name, row.verdict, sentence)


def controls_of(models: Sequence[ModelRow], domain: str) -> list[ModelRow]:
    """What was trained on for as long as the student was polished, of this domain's own teacher."""
    return [m for m in models if m.role == "baseline" and m.domain == domain]


def control_text(control: ModelRow, row: ComparisonRow | None) -> str:
    """How the student stands to what was trained on as long as it was: a teacher by reinforcement learning,
    or the distilled student by distillation. `row` compares the two; None where that was not measured."""
    stands = NOT_MEASURED if row is None else f"{claim('the student', row.verdict, 'it')}, {numbers(row)}"
    is_distilled = control.name == OPD_MORE_BASELINE
    what = "as many rollouts of more distillation" if is_distilled else "this teacher trained on as long"
    return f"; against {control.name}, {what}: {stands}"


def _not_measured(domain: str, other: ModelRow, benchmark: str | None, why: str) -> DomainVerdict:
    sentence = f"{domain}: {NOT_MEASURED} whether the student beats {label(other)}, because {why}"
    return DomainVerdict(domain, other.name, other.role, benchmark, NOT_MEASURED, sentence)


def why_missing(evaluation: Evaluation, other: ModelRow, info: BenchmarkInfo) -> str:
    """Why the student could not be compared with another model on a benchmark."""
    for model in (student_of(evaluation.models), other):
        score = model.scores.get(info.name)
        if score is None:
            return f"{label(model)} has no answers on {benchmark_label(info)}"
        if score.n == 0:
            return f"none of the {score.unscored} answers of {label(model)} could be judged"
    return f"the two have no judged problem in common on {benchmark_label(info)}"


def headroom_sentence(domain: str, found: Headroom | None, teacher: str) -> str:
    """How much of the way from base to teacher the student has come, or why that cannot be said.

    teacher: the teacher's label.
    """
    if found is None:
        return f"{domain}: {NOT_MEASURED}, because base, teacher and student have no judged problem in common"
    r = found.recovery
    gap = (
        f"{points(r.gap, plus=True)} points, 95% interval {interval(r.gap_lo, r.gap_hi)}, n = {r.n_problems}"
    )
    if r.ratio is None or r.lo is None or r.hi is None:
        return f"{domain}: not given, because {teacher} is not clearly above the base ({gap})"
    return (
        f"{domain}: {points(r.ratio)}% of the way from the base to {teacher}, "
        f"95% interval {interval(r.lo, r.hi)} (teacher minus base: {gap})"
    )


def opd_sentence(
    evaluation: Evaluation,
    domains: Sequence[str],
    objective: Mapping[str, float],
    trained: trained_lambda.Trained,
) -> str:
    """Whether the extrapolated student beats plain on-policy distillation, or why that is unknown.

    `objective` is each domain's reward scale as declared, `trained` as the student was trained.
    """
    if trained_lambda.only(trained, objective, 1.0):
        return (
            "The student was trained at reward scale 1 in every domain, which is plain OPD: "
            "this run says nothing about ExOPD."
        )
    opd = next((m for m in evaluation.models if m.role == "baseline" and m.name == OPD_BASELINE), None)
    polished = any(model.name == DISTILLED for model in evaluation.models)
    compared = evaluation.before_polish if polished else evaluation.comparisons  # OPD was not polished
    rows: dict[str, ComparisonRow] = {}
    for domain in domains if opd else ():
        info = primary_benchmark(evaluation.benchmarks, domain)
        row = find_comparison(compared, OPD_BASELINE, info.name) if info else None
        if row is not None:
            rows[domain] = row
    if not rows:
        return "OPD (reward scale 1) was not measured: this run cannot say whether ExOPD beats it."
    missing = [domain for domain in domains if domain not in rows]
    moved = trained_lambda.moved(objective, trained)
    details = "; ".join(
        f"{domain}: {row.verdict}, {evidence(row)}"
        + (f", trained at reward scale {moved[domain]}" if domain in moved else "")
        for domain, row in rows.items()
    )
    unmeasured = f"; {', '.join(missing)}: {NOT_MEASURED}" if missing else ""
    before = "; both before any polish" if polished else ""
    return f"{_opd_conclusion(rows)} ({details}{unmeasured}{before})."


def _opd_conclusion(rows: Mapping[str, ComparisonRow]) -> str:
    better = [domain for domain, row in rows.items() if row.verdict == "beats"]
    worse = [domain for domain, row in rows.items() if row.verdict == "below"]
    if not better and not worse:
        level = all(row.verdict == "level" for row in rows.values())
        return "ExOPD is level with OPD here" if level else "ExOPD is not shown to beat OPD here"
    if len(better) == len(rows):
        return "ExOPD beats OPD in every measured domain"
    parts = [f"beats OPD in {', '.join(better)}"] if better else ["does not beat OPD in any domain"]
    if worse:
        parts.append(f"is below it in {', '.join(worse)}")
    if len(better) + len(worse) < len(rows):
        parts.append("is not shown to differ from it elsewhere")
    return "ExOPD " + " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
