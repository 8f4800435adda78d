"""The primary family, its outcomes, and how the report says them, from p-values written by hand."""

from __future__ import annotations

import dataclasses
import re

import pytest

from eval.report.data import WEIGHT_MERGES, ModelRow, Score
from eval.report.figures import headline_figure
from eval.report.headline import head_rows, share_sentences
from eval.report.render import to_html, to_json, to_markdown
from eval.statistics.intervals import holm
from eval.statistics.questions import deciding_problems
from eval.statistics.shares import Recovery, WorstShare
from merging.baselines.weights import METHODS
from tests.helpers.messages import says
from tests.helpers.report_example import COMPLETE, compared, complete, hand_made, models, text_of

GREEDY_CODE, GREEDY_MATH = ("code-teacher", "lists@greedy"), ("average", "sums@greedy")


def outcomes(data):
    return {(q.kind, q.domain, q.mode): q.outcome for q in data.questions}


def plain(data):
    return re.sub(r"\\(.)", r"\1", to_markdown(data))


def test_the_family_is_own_teacher_and_best_merge_by_domain_and_decoding():
    asked = [(q.kind, q.domain, q.mode, q.against) for q in complete().questions]
    assert asked == [
        ("own teacher", "math", "sampled", "math-teacher"),
        ("best weight merge", "math", "sampled", "task_arithmetic"),  # 61.7 against 59.4
        ("own teacher", "math", "greedy", "math-teacher"),
        ("best weight merge", "math", "greedy", "average"),  # 81.4 against 77.5
        ("own teacher", "code", "sampled", "code-teacher"),
        ("best weight merge", "code", "sampled", "task_arithmetic"),
        ("own teacher", "code", "greedy", "code-teacher"),
        ("best weight merge", "code", "greedy", "task_arithmetic"),
    ]


def test_every_weight_merge_may_be_the_best():
    assert set(WEIGHT_MERGES) == METHODS.keys()


def test_each_family_is_corrected_by_itself():
    p = {GREEDY_CODE: 0.03, GREEDY_MATH: 0.02, ("base", "sums"): 0.04}
    data = complete(p)
    own = [q.row.p_value for q in data.questions]
    assert [q.row.p_adjusted for q in data.questions] == holm(own) and len(own) == 8
    rows = data.comparisons
    assert [row.primary for row in rows].count(True) == 8
    others = [row for row in rows if not row.primary]
    assert [row.p_adjusted for row in others] == holm([row.p_value for row in others])
    assert {row.family for row in others} == {len(rows) - 8} == {12}


def test_a_primary_p_value_decides_after_the_correction_only():
    """0.03 is the largest of eight: times 1. 0.02 is the next: times 2."""
    found = outcomes(complete({GREEDY_CODE: 0.03, GREEDY_MATH: 0.02}))
    assert found["own teacher", "code", "greedy"] == "beats"
    assert found["best weight merge", "math", "greedy"] == "beats"
    found = outcomes(complete({GREEDY_CODE: 0.06, GREEDY_MATH: 0.02}))
    assert found["own teacher", "code", "greedy"] == "not decided"
    assert found["best weight merge", "math", "greedy"] == "beats"
    found = outcomes(complete({GREEDY_CODE: 0.03, GREEDY_MATH: 0.028}))
    assert found["best weight merge", "math", "greedy"] == "not decided", "2 x 0.028"
    assert found["own teacher", "code", "greedy"] == "not decided", "none below the one before"


def test_level_is_equivalence_within_the_margin():
    row = compared("math-teacher", "sums", 0.001, -0.012, 0.014, n=185, p=0.9)
    rest = [r for r in complete().comparisons if (r.against, r.benchmark) != ("math-teacher", "sums")]
    evaluation = {"comparisons": (row, *rest)}
    assert outcomes(complete(evaluation=evaluation))["own teacher", "math", "sampled"] == "level"
    narrow = complete(evaluation=evaluation, margin=0.01)
    assert outcomes(narrow)["own teacher", "math", "sampled"] == "not decided"
    (question, *_) = narrow.questions
    assert question.deciding == deciding_problems(0.001, row.spread, 185, 8, 0.01)
    says(plain(narrow), f"about {question.deciding:,} problems", "1.0 points on both sides")


@pytest.mark.parametrize(
    ("p", "facts", "outcome"),
    [
        ({}, ("The student beats every teacher", "p = 0.001", "4 questions", "4 of 4"), "beats"),
        ({GREEDY_CODE: 0.05}, ("The student beats every teacher", "p = 0.050"), "beats"),
        ({GREEDY_CODE: 0.051}, ("not shown", "3 of 4", "1 not decided", "p = 0.051"), "not shown"),
        ({GREEDY_MATH: 0.9}, ("The student beats every teacher", "3 of 4", "1 not decided"), "beats"),
    ],
)
def test_the_headline_is_the_intersection_over_teachers(p, facts, outcome):
    """A merge that is not beaten does not touch it; one teacher at one decoding does."""
    data = complete(p)
    assert data.all_teachers.outcome == outcome
    headline = to_json(data)["headline"]
    says(headline["sentence"], "sampled and greedy", "best weight merge", *facts)
    assert headline["p_value"] == max(
        0.001, *[v for (name, _), v in p.items() if name.endswith("teacher")], 0
    )
    for text in (plain(data), text_of(to_html(data))):
        assert headline["sentence"] in text


def test_behind_one_teacher_the_intersection_fails_whatever_its_p_value():
    rows = [
        dataclasses.replace(r, difference=-r.difference, lo=-r.hi, hi=-r.lo)
        if (r.against, r.benchmark) == GREEDY_CODE
        else r
        for r in complete().comparisons
    ]
    data = complete(evaluation={"comparisons": tuple(rows)})
    assert (data.all_teachers.outcome, data.all_teachers.p_value) == ("not shown", 1.0)
    assert outcomes(data)["own teacher", "code", "greedy"] == "below"
    says(to_json(data)["headline"]["sentence"], "not shown", "3 of 4 (1 below)", absent=["largest"])


def test_what_is_missing_leaves_the_intersection_not_measured():
    data = hand_made()
    assert data.all_teachers.outcome == "not measured" and data.all_teachers.p_value is None
    says(to_json(data)["headline"]["sentence"], "not measured", "math", "sums (greedy)")
    found = {(q.kind, q.domain, q.mode): q for q in data.questions}
    assert found["own teacher", "math", "greedy"].row is None
    assert ("own teacher", "code", "greedy") not in found, "code has no greedy benchmark"
    stored = [q for q in to_json(data)["questions"] if q["outcome"] == "not measured"]
    assert all(q["p_value"] is q["interval"] is q["n"] is q["problems_to_decide"] is None for q in stored)


def test_without_merges_or_greedy_the_report_says_so():
    left = tuple(m for m in models() if m.name != "average")
    sampled = tuple(b for b in COMPLETE if b.mode == "sampled")
    data = hand_made(evaluation={"models": left, "benchmarks": sampled})
    assert {q.kind for q in data.questions} == {"own teacher"}
    limits = " ".join(data.limits)
    says(limits, "No weight merge was evaluated", "Greedy answers were not evaluated")
    limits = " ".join(complete().limits)
    says(limits, absent=["No weight merge was evaluated", "Greedy answers were not evaluated"])


def test_json_has_every_question_with_its_facts():
    report = to_json(complete({GREEDY_CODE: 0.3}))
    assert len(report["questions"]) == 8
    (question,) = [q for q in report["questions"] if (q["against"], q["benchmark"]) == GREEDY_CODE]
    spread = 91**0.5 * (question["interval"][1] - question["interval"][0]) / 4
    assert question | {"sentence": ""} == {
        "family": "primary",
        "kind": "own teacher",
        "domain": "code",
        "mode": "greedy",
        "benchmark": "lists@greedy",
        "against": "code-teacher",
        "difference": pytest.approx(0.055),
        "interval": question["interval"],
        "n": 91,
        "p_value": 0.3,
        "p_adjusted": 0.3,
        "family_size": 8,
        "margin": 0.02,
        "outcome": "not decided",
        "problems_to_decide": deciding_problems(0.055, spread, 91, 8, 0.02),
        "sentence": "",
    }


def test_the_phrase_of_a_win_that_is_not_significant_is_gone():
    p = {key: 0.04 for key in (GREEDY_CODE, GREEDY_MATH, ("base", "sums"), ("average", "lists"))}
    for data in (complete(p), hand_made()):
        for text in (plain(data), text_of(to_html(data))):
            says(text, absent=["not significant", "within noise"])


def test_no_secondary_comparison_is_in_the_headline():
    page = to_html(complete())
    start = page.index('<section id="headline"')
    head = text_of(page[start : page.index("</section>", start)])
    says(head, "Student", "Own teacher", "Best weight merge", "Base", "one training run")
    assert page.index('<section id="headline"') < page.index("<nav") < page.index('<section id="questions"')
    assert head.index("one training run") < head.index("Own teacher"), "said in the first lines"


def test_the_small_table_has_every_model_interval_and_number_of_problems():
    rows = head_rows(complete())
    assert [(r.domain, r.decoding, r.n) for r in rows] == [
        ("math", "temperature 1", 185), ("math", "greedy", 185),
        ("code", "temperature 1", 91), ("code", "greedy", 91),
    ]  # fmt: skip
    cells = rows[3].cells
    assert [c.model.name for c in cells.values()] == ["student", "code-teacher", "task_arithmetic", "base"]
    assert [c.outcome for c in cells.values()] == [None, "beats", "beats", None]
    line = next(line for line in plain(complete()).splitlines() if line.startswith("| code, greedy | 91 |"))
    says(line, "68.1%", "62.6%", "62.1%", "22.0%", "task_arithmetic", "(beats)")


def test_shares_or_why_not():
    sampled, *_ = complete().shares
    unclear = dataclasses.replace(
        sampled,
        macro=Recovery(None, None, None, 0.01, -0.01, 0.03, 91),
        worst=WorstShare(None, None, None, None, ("math", "code")),
    )
    said = share_sentences(complete(evaluation={"shares": (sampled, unclear)}))
    assert len(said) == 4
    says(said[0], "temperature 1", "120.0%", "110.0 to 130.0")
    says(said[1], "worst", "code", "110.0%", "100.0 to 120.0")
    says(said[2], "not given", "oracle", "not clearly above the base")
    says(said[3], "not given", "math, code")
    report = to_json(hand_made())["shares"]
    assert report["sampled"]["worst"]["unclear"] == ["code"] and report["greedy"] == {
        "macro": None,
        "worst": None,
    }


def test_the_picture_has_both_decodings():
    figure = headline_figure(complete())
    says(figure.caption, "temperature 1", "greedy")
    says(figure.svg, "student, temperature 1: math 75.1%", "student, greedy: math 83.9%")
    alone = hand_made(evaluation={"benchmarks": COMPLETE[:2]}, objective={"math": 1.25})
    figure = headline_figure(alone)
    says(figure.svg, "math, minus own teacher: +1.2 points", "math, minus best weight merge")
    empty = {"models": (ModelRow("student", "student"),), "benchmarks": (), "comparisons": ()}
    assert headline_figure(hand_made(evaluation=empty)) is None


def test_equal_merges_are_told_apart_by_their_order():
    score = Score(0.5, 0.4, 0.6, 740, problems=185)
    rows = [ModelRow(name, "baseline", scores={"sums": score}) for name in ("ties", "average")]
    data = complete(evaluation={"models": (*complete().models[:4], *rows)})
    best = next(q for q in data.questions if q.kind == "best weight merge" and q.benchmark == "sums")
    assert best.against == "ties"
