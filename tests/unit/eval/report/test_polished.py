"""A report of a polished student: each stage's gain, and the control beside "beats"."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from eval.jobs import ModelUnderTest
from eval.records import is_asked
from eval.report.data import BenchmarkInfo, ModelRow
from eval.report.from_samples import from_samples
from eval.report.model_card import model_card
from eval.report.render import to_html, to_json, to_markdown
from eval.report.sections.polished import ControlUse, MoreUse, PolishUse, from_json, told
from eval.statistics.intervals import holm
from tests.helpers.report_example import (
    BENCHMARKS,
    COMPARISONS,
    MINUS,
    compared,
    hand_made,
    models,
    score,
    text_of,
)
from tests.helpers.run_folders import answers

MORE = ModelRow("math-more", "baseline", "math", None, {"sums": score(0.70)})
DISTILLED = ModelRow("distilled", "baseline", None, None, {"sums": score(0.70), "lists": score(0.6)})
BEATS = compared("math", "sums", 0.05, 0.02, 0.08)
CONTROL = compared("math-more", "sums", -0.021, -0.04, -0.002, n=249)
POLISH = PolishUse(
    20, 1e-4, {"math": 2560, "code": 1280}, [], {"math": ControlUse("math-more", 20, 2560)}, True
)


def before(against, benchmark, difference, lo, hi, p=0.5):
    return replace(compared(against, benchmark, difference, lo, hi, p=p), model="distilled")


STAGES = (before("base", "sums", 0.37, 0.33, 0.41, p=0.002), before("math", "sums", 0.001, -0.02, 0.022))


def polished(**changes):
    rows = (BEATS, CONTROL, compared("distilled", "sums", 0.03, 0.01, 0.05), *COMPARISONS[1:])
    evaluation = {
        "models": tuple(sorted((*models(), MORE, DISTILLED), key=lambda m: m.place)),
        "comparisons": rows,
        "before_polish": STAGES,
        **changes.pop("evaluation", {}),
    }
    return hand_made(evaluation=evaluation, polished=POLISH, **changes)


@pytest.fixture(scope="module")
def data():
    return polished()


def plain(data):
    return re.sub(r"\\(.)", r"\1", to_markdown(data))


def test_a_teacher_that_is_beaten_is_named_with_its_control(data):
    """Wherever the sentence is shown: report, card, command."""
    first, second, *_ = [v for v in data.verdicts if v.domain == "math"]
    control = (
        f"against math-more, this teacher trained on as long: the student is below it, {MINUS}2.1 points"
    )
    assert first.against == "math" and control in first.sentence
    assert "n = 249" in first.sentence
    assert second.against == "math-more", "and it comes next"
    for text in (plain(data), text_of(to_html(data)), re.sub(r"\\(.)", r"\1", model_card(to_json(data), ""))):
        assert control in text


def test_a_control_without_a_score_is_said_to_be_not_measured():
    data = polished(evaluation={"comparisons": (BEATS, *COMPARISONS[1:])})
    assert "math-more, this teacher trained on as long: not measured" in data.verdicts[0].sentence


def test_a_control_is_not_judged_in_other_domains(data):
    assert [v.domain for v in data.verdicts if v.against == "math-more"] == ["math"]
    (limit,) = [limit for limit in data.limits if "math-more" in limit]
    assert "sums (greedy)" in limit and "lists" not in limit
    table = plain(data).split("### The student against each teacher")[1].split("### ")[0]
    assert [line.split("|")[2].strip() for line in table.splitlines() if "math-more" in line] == [
        "sums",
        "sums (greedy)",
    ]


def test_each_stages_gain_is_shown(data):
    names = [model.name for model in data.models]
    assert names[:2] == ["student", "distilled"] and names.index("math-more") < names.index("base")
    for text in (plain(data), text_of(to_html(data))):
        assert "distillation: distilled student minus the base" in text
        assert "polish: student minus the distilled student" in text
        assert "What each stage of the training gained" in text
    row = next(line for line in plain(data).splitlines() if "polish: student minus" in line)
    assert [cell.strip() for cell in row.split("|")[2:6]] == [
        "polish: student minus the distilled student", "+3.0", "1.0 to 5.0", "250",
    ]  # fmt: skip
    assert "polish" not in plain(hand_made()) and to_json(hand_made())["polish"] is None


def test_the_stages_count_in_the_secondary_family(data):
    rows = [row for row in (*data.comparisons, *data.before_polish) if not row.primary]
    values = [row.p_value for row in rows]
    expected = dict(zip(values, holm(values), strict=True))
    assert [row.p_adjusted for row in data.before_polish] == [expected[0.002], expected[0.5]]
    assert {row.family for row in rows} == {len(values)}
    assert f"{len(values)} secondary comparisons" in plain(data)


def test_opd_is_compared_with_the_student_before_its_polish():
    """OPD was not polished: the polished student would beat it by the polish alone."""
    opd = ModelRow("opd", "baseline", None, None, {"sums": score(0.7), "lists": score(0.6)})
    data = polished(
        evaluation={
            "models": (*models(), opd, DISTILLED),
            "comparisons": (*COMPARISONS, compared("opd", "sums", 0.09, 0.05, 0.13)),
            "before_polish": (before("opd", "sums", -0.001, -0.03, 0.028),),
        }
    )
    assert data.opd_sentence.startswith("ExOPD is not shown to beat OPD here")
    assert "before any polish" in data.opd_sentence


def test_what_the_polish_did_is_told():
    (first, control, without, more) = told(POLISH)
    assert "20 steps" in first and "0.0001" in first and "math 2,560, code 1,280" in first
    assert "math-more" in control and "2,560 rollouts" in control
    assert without.startswith("code: no such teacher")
    assert "no student was distilled for as many rollouts more (baseline `opd_more`)" in more
    use = replace(POLISH, more=MoreUse("opd_more", 4, {"math": 2000, "code": 2096}))
    assert "4 steps, rollouts: math 2,000, code 2,096; 4,096 in all, the polish 3,840" in told(use)[-1]
    alone = PolishUse(20, 1e-4, {"math": 2560}, ["code"])
    assert "left out code" in told(alone)[1] and "`teacher_more`" in told(alone)[2]
    assert told(None) == [] and from_json(to_json(polished())["polish"]) == POLISH


def test_what_the_polish_gained_is_read_beside_more_distillation():
    more = ModelRow("opd_more", "baseline", None, None, {"sums": score(0.71), "lists": score(0.6)})
    gain = compared("distilled", "sums", 0.03, 0.01, 0.05)
    data = polished(
        evaluation={
            "models": (*models(), DISTILLED, more),
            "comparisons": (BEATS, gain, compared("opd_more", "sums", 0.02, -0.01, 0.05, n=247, p=0.3)),
        },
    )
    (verdict,) = [v for v in data.verdicts if (v.domain, v.against) == ("math", "distilled")]
    said = "against opd_more, as many rollouts of more distillation: not decided between the student and it"
    assert said in verdict.sentence and verdict.sentence.endswith("n = 247")
    (own,) = [v for v in data.verdicts if (v.domain, v.against) == ("math", "opd_more")]
    assert "not decided between the student and baseline opd_more" in own.sentence
    assert "n = 247" in own.sentence
    assert "| sums | control: student minus baseline opd_more | +2.0 |" in plain(data)
    stored = to_json(replace(data, polished=replace(POLISH, more=MoreUse("opd_more", 4, {"math": 2}))))
    assert from_json(stored["polish"]).more == MoreUse("opd_more", 4, {"math": 2})
    older = {key: value for key, value in stored["polish"].items() if key != "more"}
    assert from_json(older) == POLISH, "a report of an earlier version"


def test_the_distilled_student_is_compared_with_base_own_teachers_and_opd():
    infos = [BenchmarkInfo("sums", "math", "sampled"), BenchmarkInfo("lists", "code", "sampled")]
    found = [
        ModelUnderTest("student", "s", "student"),
        ModelUnderTest("distilled", "d", "baseline"),
        ModelUnderTest("math-teacher", "m", "teacher", "math"),
        ModelUnderTest("opd", "o", "baseline"),
        ModelUnderTest("average", "a", "baseline"),
        ModelUnderTest("base", "b", "base"),
    ]
    samples = {(m.name, b): answers([1, 0, 1], b) for m in found for b in ("sums", "lists")}
    evaluation = from_samples(samples, found, infos, 0)
    assert {(row.model, row.against, row.benchmark) for row in evaluation.before_polish} == {
        ("distilled", "math-teacher", "sums"), ("distilled", "opd", "sums"), ("distilled", "base", "sums"),
        ("distilled", "opd", "lists"), ("distilled", "base", "lists"),
    }  # fmt: skip
    assert all(row.model == "student" for row in evaluation.comparisons)


@pytest.mark.parametrize(
    ("role", "own", "asked"),
    [
        ("baseline", None, True),
        ("baseline", "math", True),
        ("baseline", "code", False),
        ("teacher", "code", True),
    ],
)
def test_who_is_asked_a_domains_benchmarks(role, own, asked):
    assert is_asked(role, own, "math") == asked
    assert BENCHMARKS[0].domain == "math"
