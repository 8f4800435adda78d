"""A sweep's numbers by hand, its sentences, and its page."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from eval.report.sections.trained_lambda import Phase
from eval.statistics.intervals import holm
from eval.statistics.seeds import SeedEstimate
from eval.sweep import data as sweep_data
from eval.sweep.data import curve, mean_metric
from eval.sweep.render import to_html, to_markdown, write_sweep
from eval.sweep.wording import most_accurate, sentences
from tests.helpers.messages import says
from tests.helpers.sweep_example import FIXED, STUDENTS, answers, made


def test_points_by_hand():
    opd, extrapolated = made().curves[0].points
    assert (opd.reward_scale, opd.accuracy.mean, opd.accuracy.by_seed) == (1.0, 0.375, (0.25, 0.5))
    assert opd.against_opd is None
    assert (extrapolated.accuracy.mean, extrapolated.accuracy.seeds) == (0.875, 2)
    assert extrapolated.against_opd.by_seed == (0.5, 0.5)  # of the same seed
    assert opd.against_teacher.mean == 0.375 - 0.5
    assert extrapolated.against_teacher.mean == 0.375
    assert (opd.length, extrapolated.length) == (10.0, 15.0)
    assert made().curves[0].fixed["math-teacher"].accuracy == 0.5


def test_only_answers_of_the_mode_count():
    both = {key: [*found, *answers(0, 0, 0, 0, mode="greedy", tokens=99)] for key, found in STUDENTS.items()}
    assert curve("bench", "math", "sampled", both, FIXED, "math-teacher") == made().curves[0]
    greedy = curve("bench", "math", "greedy", both, FIXED, "math-teacher")
    assert [point.accuracy.mean for point in greedy.points] == [0.0, 0.0]
    assert greedy.fixed == {} and greedy.points[0].against_teacher is None


def test_what_cannot_be_judged_is_no_wrong_answer():
    students = {(1.0, 0): answers(1, 1, 0, 0, unscored=[2, 3], finished=False)}
    (point,) = curve("bench", "math", "sampled", students, {}, None).points
    assert (point.accuracy.mean, point.accuracy.problems, point.unscored) == (1.0, 2, 2)
    assert point.finish_rate == 0.0
    (point,) = curve("b", "math", "sampled", {(1.0, 0): answers(1, unscored=[0])}, {}, None).points
    assert point.accuracy is None


def test_a_seed_without_lambda_1_is_not_compared_with_another_seeds():
    students = {key: found for key, found in STUDENTS.items() if key != (1.0, 1)}
    point = curve("bench", "math", "sampled", students, FIXED, "math-teacher").points[1]
    assert point.against_opd.seeds == 1


def estimate(mean, lo, hi, p_value):
    return SeedEstimate(mean, lo, hi, 3, 185, (mean,) * 3, p_value)


@pytest.mark.parametrize(
    ("difference", "facts", "absent"),
    [
        (
            estimate(0.05, 0.01, 0.09, 0.02),
            ("lambda 1.25 beats OPD", "+5.0 points", "95% interval 1.0 to 9.0", "n = 185", "3 seeds"),
            ["no lambda"],
        ),
        (
            estimate(0.05, -0.01, 0.09, 0.1),
            ("no lambda is shown to beat OPD", "not decided: lambda 1.25", "9.0 points"),
            ["below"],
        ),
        (
            estimate(0.001, -0.01, 0.012, 0.9),
            ("no lambda is shown to beat OPD", "lambda 1.25 is level with OPD"),
            ["below", "not decided"],
        ),
        (
            estimate(-0.05, -0.09, -0.01, 0.02),
            ("no lambda is shown to beat OPD", "lambda 1.25 is below OPD", "\N{MINUS SIGN}5.0 points"),
            [],
        ),
    ],
)
def test_sentences_say_who_won(difference, facts, absent, monkeypatch):
    monkeypatch.setattr(sweep_data, "difference_over_seeds", lambda *_: difference)
    found = made(curves=(curve("bench", "math", "sampled", STUDENTS, FIXED, None),))
    says(sentences(found)[0], "math (bench, sampled)", *facts, absent=absent)


def test_all_comparisons_of_a_sweep_are_one_family(tmp_path):
    """Two lambdas against the teacher and one against OPD: p-values by Student's t, corrected by Holm."""
    data = made()
    places = {("bench", "sampled", 1.0, "teacher"), ("bench", "sampled", 1.25, "teacher")}
    assert data.judged.keys() == places | {("bench", "sampled", 1.25, "opd")}
    found = [(judged.estimate.p_value, judged.p_adjusted) for judged in data.judged.values()]
    assert [p for _, p in found] == holm([p for p, _ in found])
    stored = json.loads(write_sweep(data, tmp_path)["json"].read_text())
    point = stored["curves"][0]["points"][1]["against_opd"]
    judged = data.judged["bench", "sampled", 1.25, "opd"]
    assert (point["p_adjusted"], point["verdict"]) == (judged.p_adjusted, judged.outcome)
    assert stored["margin"] == 0.02 and "3 comparisons" in to_markdown(data)


def test_the_best_lambda_is_said_to_be_picked_after_the_fact():
    said = sentences(made())
    assert len(said) == 2
    says(said[1], "most accurate", "1.25", "these very problems")
    assert most_accurate(made().curves[0]).reward_scale == 1.25


def test_students_that_were_not_trained_at_their_lambda_are_named(tmp_path):
    backed_off = (Phase(1, 9, 1.25, 1.25), Phase(10, 30, 1.0, 1.0))
    throughout = (Phase(1, 30, 1.25, 1.25),)
    trained = {(1.25, 0): {"math": backed_off}, (1.25, 1): {"math": throughout}}
    data = made(trained_lambda=trained)
    said = "lambda 1.25, seed 0: math was trained at lambda 1.25 until step 9, then 1"
    assert sentences(data)[2:] == [said]
    assert said in to_markdown(data) and said in to_html(data)
    stored = json.loads(write_sweep(data, tmp_path)["json"].read_text())["trained"]
    assert [(run["reward_scale"], run["seed"]) for run in stored] == [(1.25, 0), (1.25, 1)]
    assert [phase["at_first"] for phase in stored[0]["domains"]["math"]] == [1.25, 1.0]
    both = made(trained_lambda={run: {"math": backed_off} for run in trained})
    assert sentences(both)[2].startswith("lambda 1.25, seed 0, 1: math was trained at")


def test_metrics_are_means_over_the_seeds_of_a_lambda():
    training = {
        (1.0, 0): [{"step": 1, "x": 1.0}, {"step": 2, "x": 3.0}],
        (1.0, 1): [{"step": 1, "x": 2.0}],
        (2.0, 0): [{"step": 1, "x": 9.0}],
    }
    assert mean_metric(training, 1.0, "x") == ([1], [1.5])
    assert mean_metric(training, 1.0, "y") == ([], [])
    assert mean_metric(training, 3.0, "x") == ([], [])


def test_the_files_hold_what_was_measured(tmp_path):
    files = write_sweep(made(), tmp_path)
    assert files["html"] == tmp_path / "sweep.html"
    stored = json.loads(files["json"].read_text())
    point = stored["curves"][0]["points"][1]
    assert point["accuracy"]["mean"] == 0.875 and point["against_opd"]["by_seed"] == [0.5, 0.5]
    assert stored["curves"][0]["points"][0]["against_opd"] is None
    text = files["md"].read_text()
    assert "| 1.25 | 87.5% |" in text and "| is OPD |" in text and "lambda-1.seed-0/report.md" in text


def test_the_page_escapes_and_loads_nothing():
    page = to_html(made(name="<script>x"))
    assert "<script" not in page and "&lt;script&gt;x" in page and "name: &lt;demo&gt;" in page
    seen = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.extend(value for key, value in attrs if key in ("src", "href"))

    Parser().feed(page)
    assert all(link.startswith("#") or link == "lambda-1.seed-0/report.html" for link in seen)
    assert "optimum (probe)" in page and "mean over" not in page


def test_nothing_measured_is_said():
    empty = made(curves=(), training={}, probe=(), runs=())
    assert "No metrics were kept" in to_html(empty)
    assert "## Verdict" in to_markdown(empty)


def test_the_figures_follow_the_numbers():
    page = to_html(made())
    assert "student, sampled at 1.25: 87.5%" in page
    assert "teacher, sampled: 50.0%" in page
    assert "lambda 1.25: 15.0 tokens, 87.5%" in page
    assert "lambda 1.25: from 1.25 to 2.5" in page
    assert "optimum at 1.25, greedy: 90.0%" in page and "optimum at 1, greedy" not in page
    assert "optimum at 1.25" in page and "optimum at 1.25" not in to_html(made(probe=()))
