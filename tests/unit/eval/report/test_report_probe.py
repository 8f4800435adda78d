"""The report of a run whose lambda a probe has chosen."""

from __future__ import annotations

import json

from eval.report.render import dumps, to_html, to_json, to_markdown
from eval.report.sections.probed import from_json
from tests.helpers.report_example import Reader, hand_made

CHOICES = {
    "math": {
        "reward_scale": 0.5,
        "reason": "lambda 0.5 was most accurate <b>",
        "curve": [
            {"domain": "math", "reward_scale": scale, "accuracy": accuracy, "interval": [accuracy - 0.1, 1.0],
             "prompts": 100, "answers": 400, "length": 26.04, "finish_rate": 0.99}
            for scale, accuracy in ((0.5, 0.83), (1.25, 0.73))
        ],
    }
}  # fmt: skip


def test_the_curve_the_choice_and_its_reason_are_shown_in_all_three():
    data = hand_made(probed=from_json(CHOICES))
    told = json.loads(dumps(to_json(data)))["probe"]["math"]
    assert told["reward_scale"] == 0.5 and told["reason"].startswith("lambda 0.5 was")
    assert [point["accuracy"] for point in told["curve"]] == [0.83, 0.73]
    assert told["curve"][0]["lo"] == 0.73 and told["curve"][0]["prompts"] == 100
    text = to_markdown(data)
    assert "**math: 0.5** (lambda 0.5 was most accurate \\<b\\>)" in text
    row = (
        "| math | 0.5 | 83.0% | 73.0% to 100.0% | 100 | 400 | 26.0 | 99.0% | not measured |  | not measured |"
    )
    assert row in text, "a record of an earlier version, without greedy answers"
    page = to_html(data)
    assert "How lambda was chosen" in page and "most accurate <b>" not in page
    Reader(page)  # well formed enough to be read


def test_both_decodings_are_shown_with_their_mean():
    greedy = {"accuracy": 0.9, "interval": [0.8, 0.95], "answers": 100, "length": 20.0, "finish_rate": 1.0}
    math = CHOICES["math"]
    curve = [{**point, "temperature": 0.7, "greedy": greedy} for point in math["curve"]]
    data = hand_made(probed=from_json({"math": {**math, "curve": curve}}))
    point = json.loads(dumps(to_json(data)))["probe"]["math"]["curve"][0]
    assert point["greedy"] == {"accuracy": 0.9, "lo": 0.8, "hi": 0.95, "answers": 100}
    assert (round(point["mean"], 9), point["temperature"]) == (0.865, 0.7)
    assert "| 99.0% | 90.0% | 80.0% to 95.0% | 86.5% |" in to_markdown(data)
    page = to_html(data)
    assert "math, greedy at lambda 0.5: 90.0% (95% interval 80.0 to 95.0)" in page
    assert "Mean of both" in page and "86.5%" in page
    Reader(page)


def test_the_figure_shows_the_optimum_beside_the_trained_student():
    page = to_html(hand_made(probed=from_json(CHOICES)))
    assert "math at lambda 0.5: 83.0% (95% interval 73.0 to 100.0)" in page
    assert "trained at lambda 0.5: 72.2%" in page  # the student on the domain's benchmark
    assert "reward scale lambda" in page


def test_without_a_probe_nothing_of_it_is_shown():
    data = hand_made()
    assert to_json(data)["probe"] == {}
    assert "How lambda was chosen" not in to_markdown(data) + to_html(data)
