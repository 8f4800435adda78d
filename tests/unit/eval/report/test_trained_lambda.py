"""Lambda as it was trained: in words, and where the report's sentences and figures name it."""

from __future__ import annotations

import json

import pytest

from eval.report.data import ModelRow
from eval.report.render import to_html, to_json
from eval.report.sections.probed import from_json as probed_from_json
from eval.report.sections.trained_lambda import Phase, from_json, in_one_line, moved, only, text
from eval.report.sections.trained_lambda import to_json as phases_json
from tests.helpers.report_example import compared, hand_made, models

BACKED_OFF = (Phase(1, 34, 1.25, 1.25), Phase(35, 40, 1.0, 1.0))
WARM = (Phase(1, 11, 1.0, 1.25), Phase(12, 40, 1.25, 1.25))
DECLARED = {"math": 1.25, "code": 1.5}


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ((Phase(1, 40, 1.25, 1.25),), "1.25"),
        (BACKED_OFF, "1.25 until step 34, then 1"),
        (WARM, "1 rising to 1.25 until step 11, then 1.25"),
        ((Phase(1, 5, 1.0, 0.5), Phase(6, 40, 0.5, 0.5)), "1 falling to 0.5 until step 5, then 0.5"),
        ((Phase(1, 40, 1.0, 1.2),), "1 rising to 1.2"),
    ],
)
def test_phases_in_words(phases, said):
    assert text(phases) == said


def test_all_domains_in_one_line():
    assert in_one_line(DECLARED, {}) == "1.25 (math), 1.5 (code)"
    assert in_one_line({"math": 1.25, "code": 1.25}, {}) == "1.25"
    assert in_one_line({}, {}) == ""
    assert in_one_line(DECLARED, {"math": BACKED_OFF}) == "1.25 until step 34, then 1 (math); 1.5 (code)"
    assert in_one_line(DECLARED, dict.fromkeys(DECLARED, BACKED_OFF)) == "1.25 until step 34, then 1"


def test_what_moved_and_what_was_at_one_lambda_throughout():
    constant = (Phase(1, 40, 1.5, 1.5),)
    assert moved(DECLARED, {"math": BACKED_OFF, "code": constant}) == {"math": text(BACKED_OFF)}
    at_one = (Phase(1, 40, 1.0, 1.0),)
    assert moved(DECLARED, {"math": at_one}) == {"math": "1"}
    assert only(dict.fromkeys(DECLARED, at_one), DECLARED, 1.0)
    assert not only({"math": at_one}, DECLARED, 1.0)  # code was trained as declared
    assert not only({"math": BACKED_OFF}, {"math": 1.0}, 1.0)
    assert only({}, {"math": 1.0}, 1.0) and not only({}, {}, 1.0)


def test_plain_values_make_the_same_records():
    trained = {"math": BACKED_OFF, "code": WARM}
    assert from_json(json.loads(json.dumps(phases_json(trained)))) == trained


def test_the_sentence_about_opd_says_how_the_student_was_trained():
    opd = ModelRow("opd", "baseline", None, None, {})
    rows = (compared("opd", "sums", 0.02, 0.01, 0.03), compared("opd", "lists", 0.02, 0.01, 0.03))
    evaluation = {"models": (*models(), opd), "comparisons": rows}
    sentence = hand_made(evaluation=evaluation, trained_lambda={"math": BACKED_OFF}).opd_sentence
    of_math, of_code = sentence.split("; ")
    assert of_math.endswith("n = 250, adjusted p = 0.002, trained at reward scale 1.25 until step 34, then 1")
    assert "trained at" not in of_code
    at_one = dict.fromkeys(DECLARED, (Phase(1, 40, 1.0, 1.0),))
    assert "plain OPD" in hand_made(evaluation=evaluation, trained_lambda=at_one).opd_sentence


def test_the_probes_figure_says_how_the_student_was_trained():
    point = {"domain": "math", "reward_scale": 1.25, "accuracy": 0.8, "interval": [0.7, 0.9], "prompts": 9,
             "answers": 9, "length": 5.0, "finish_rate": 1.0}  # fmt: skip
    probed = probed_from_json({"math": {"reward_scale": 1.25, "reason": "best", "curve": [point]}})
    page = to_html(hand_made(probed=probed, trained_lambda={"math": BACKED_OFF}))
    assert "trained at lambda 1.25 until step 34, then 1: 72.2%" in page
    assert "math was trained at lambda 1.25 until step 34, then 1." in page
    assert "math was trained at" not in to_html(hand_made(probed=probed))


def test_json_keeps_the_declared_lambda_beside_the_trained_one():
    objective = to_json(hand_made(trained_lambda={"math": BACKED_OFF}))["objective"]
    assert objective["reward_scale"] == DECLARED
    assert list(objective["trained"]) == ["math"] and objective["trained"]["math"][1]["first_step"] == 35
