"""The report says what was measured, in Markdown, HTML and JSON that agree, and nothing more."""

from __future__ import annotations

import json
import os
import re

import pytest

from eval.report import wording
from eval.report.data import ModelRow, ReportData
from eval.report.render import clip, md, md_code, to_html, to_json, to_markdown, write_report
from tests.helpers.messages import says
from tests.helpers.report_example import BENCHMARKS, MINUS, compared, hand_made, models, text_of


@pytest.fixture(scope="module")
def data() -> ReportData:
    return hand_made()


@pytest.fixture(scope="module")
def page(data) -> str:
    return to_html(data)


@pytest.fixture(scope="module")
def visible(page) -> str:
    return text_of(page)


def test_numbers_are_written_by_hand_computed_rules():
    assert wording.percent(0.7224) == "72.2%"
    assert wording.percent(None) == "not measured"
    assert wording.percent(0.0) == "0.0%"
    assert wording.points(0.012, plus=True) == "+1.2"
    assert wording.points(-0.071, plus=True) == f"{MINUS}7.1"
    assert wording.points(0.0) == wording.points(-1e-9, plus=True) == "0.0"
    assert wording.points(0.0004) == "0.04", "an interval that leaves out zero must not read 0.0"
    assert wording.points(-0.0004) == f"{MINUS}0.04"
    assert wording.p_text(0.0004) == "p < 0.001"
    assert (wording.p_text(0.04), wording.p_text(0.512)) == (
        "p = 0.040",
        "p = 0.51",
    )
    assert wording.memory(5 * 2**30) == "5.0 GiB"
    assert wording.memory(300 * 2**20) == "300 MiB"
    assert wording.memory(None) == "not measured"


def test_each_domain_is_headed_by_its_own_teacher(data):
    first = {v.domain: v.sentence for v in reversed(data.verdicts)}
    interval = f"95% interval {MINUS}0.4 to 2.8"
    says(first["math"], "math", "not decided", "teacher math", "+1.2 points", interval, "n = 250")
    interval = f"95% interval {MINUS}11.0 to {MINUS}3.2"
    says(first["code"], "code", "below teacher code", f"{MINUS}7.1 points", interval, "n = 86")


def test_positive_and_negative_verdicts_against_base_and_baselines(data):
    said = {(v.domain, v.against): v.sentence for v in data.verdicts}
    base, average, unjudged = said["math", "base"], said["math", "average"], said["code", "average"]
    says(base, "math", "beats the base", "+39.2 points", "95% interval 36.0 to 42.0", "n = 250")
    says(base, "adjusted p = 0.004")
    numbers = (f"{MINUS}3.8 points", f"95% interval {MINUS}6.0 to {MINUS}1.6", "n = 250")
    says(average, "math", "not decided", "baseline average", *numbers, "adjusted p = 0.080", absent=["below"])
    says(unjudged, "code", "not measured", "baseline average", "344 answers", "judged")


def test_domains_without_benchmark_or_teacher_are_not_measured():
    without = hand_made(evaluation={"benchmarks": BENCHMARKS[:2]})
    code = [v for v in without.verdicts if v.domain == "code"]
    assert {v.outcome for v in code} == {"not measured"}
    says(code[0].sentence, "code", "no benchmark")
    assert any("code" in limit and "no benchmark" in limit for limit in without.limits)
    orphan = hand_made(evaluation={"models": tuple(m for m in models() if m.name != "code")})
    first = next(v for v in orphan.verdicts if v.domain == "code")
    says(first.sentence, "code", "not measured", "teacher")


BEATS, LEVEL, BELOW = (0.02, 0.01, 0.03), (0.0, -0.01, 0.01), (-0.02, -0.03, -0.01)
OPEN = (0.02, -0.01, 0.05)


@pytest.mark.parametrize(
    ("math", "code", "facts", "absent"),
    [
        (BEATS, BEATS, ("beats OPD", "every measured domain", "math: beats", "+2.0 points"), ["not shown"]),
        (LEVEL, LEVEL, ("level with OPD", "math: level"), ["below", "beats"]),
        (LEVEL, OPEN, ("not shown to beat OPD", "math: level", "code: not decided"), ["below"]),
        (BEATS, BELOW, ("beats OPD in math", "below it in code"), ["every"]),
        (LEVEL, BELOW, ("not beat OPD", "below it in code", "not shown to differ from it elsewhere"), []),
        (BEATS, None, ("beats OPD", "every measured domain", "math: beats", "+2.0 points"), ["not shown"]),
        (None, None, ("OPD (reward scale 1)", "not measured", "cannot say"), []),
    ],
)
def test_the_sentence_about_opd_is_honest(math, code, facts, absent):
    opd = ModelRow("opd", "baseline", None, None, {})
    measured = [("sums", math), ("lists", code)]
    p_values = {BEATS: 0.001, BELOW: 0.001, LEVEL: 0.9, OPEN: 0.3}
    comparisons = tuple(compared("opd", name, *row, p=p_values[row]) for name, row in measured if row)
    sentence = hand_made(evaluation={"models": (*models(), opd), "comparisons": comparisons}).opd_sentence
    says(sentence, "ExOPD", *facts, absent=absent)
    assert ("code: not measured" in sentence) == (math is not None and code is None)


def test_a_student_at_reward_scale_1_is_not_called_exopd():
    sentence = hand_made(objective={"math": 1.0, "code": 1.0}).opd_sentence
    assert "plain OPD" in sentence and "says nothing about ExOPD" in sentence
    assert "was not measured" in hand_made(objective={"math": 1.0, "code": 1.25}).opd_sentence


def test_limits_follow_from_what_was_measured(data):
    limits = " ".join(data.limits)
    says(limits, "one training run", "3 primary questions", "4 secondary comparisons", "2.0 points")
    says(limits, "best weight merge", "favours the merge")
    says(limits, "Teacher math was not measured on sums (greedy)", "4 of 1344 answers", "98.8%")
    (ceiling,) = [limit for limit in data.limits if "98.8%" in limit]
    says(ceiling, "lists", "reference solutions", absent=["sums"])
    assert not any("sums" in limit and "reference solutions" in limit for limit in data.limits)


# --------------------------------------------------------------------------------- the three formats


def test_json_has_the_declared_schema(data):
    report = json.loads(json.dumps(to_json(data), allow_nan=False))
    assert {"run", "models", "comparisons", "wall_seconds", "peak_memory_bytes"} <= report.keys()
    math = report["models"]["math"]
    assert (math["role"], math["domain"]) == ("teacher", "math")
    assert math["benchmarks"]["sums"] == {
        "accuracy": 0.71,
        "n": 1000,
        "problems": 250,
        "interval": [0.71 - 0.02, 0.71 + 0.02],
        "unscored": 0,
        "finish_rate": 0.975,
        "accuracy_when_finished": 0.71 / 0.975,
        "mean_tokens": 24.5,
        "pass_at_k": {},
        "maj_at_k": None,
    }
    student = report["models"]["student"]["benchmarks"]
    assert list(student["sums"]["pass_at_k"]) == ["1", "2", "4"]
    assert student["sums"]["pass_at_k"]["4"] == {
        "accuracy": 0.722 + 0.1,
        "interval": [0.722 + 0.05, 0.722 + 0.15],
        "n": 249,
    }
    assert student["sums"]["maj_at_k"] == {
        "k": 4,
        "accuracy": 0.722 + 0.03,
        "interval": [0.722 - 0.02, 0.722 + 0.08],
        "n": 250,
    }
    assert student["lists"]["maj_at_k"] is None
    assert report["headroom"] == {
        "math": {"teacher": "math", "benchmark": "sums", "recovered": 1.03, "interval": [0.98, 1.08],
                 "gap": 0.38, "gap_interval": [0.35, 0.41], "n": 250},
        "code": {"teacher": "code", "benchmark": "lists", "recovered": None, "interval": None,
                 "gap": 0.02, "gap_interval": [-0.01, 0.05], "n": 86},
    }  # fmt: skip
    first = report["comparisons"][0]
    assert first == {
        "model": "student",
        "against": "math",
        "benchmark": "sums",
        "difference": 0.012,
        "interval": [-0.004, 0.028],
        "n": 250,
        "p_value": 0.6,
        "p_adjusted": 0.6,
        "family": 3,
        "primary": True,
        "verdict": "not decided",
        "unscored": 0,
    }
    assert report["wall_seconds"] == {"expert math": 152.04, "merge": 8000.0}
    assert report["peak_memory_bytes"] == 5 * 2**30


def test_not_measured_unscored_and_wrong_stay_apart(data, page):
    benchmarks = {name: model["benchmarks"] for name, model in to_json(data)["models"].items()}
    assert benchmarks["math"]["sums@greedy"] is None
    assert benchmarks["average"]["lists"]["accuracy"] is None
    assert (benchmarks["average"]["lists"]["n"], benchmarks["average"]["lists"]["unscored"]) == (0, 344)
    assert benchmarks["average"]["lists"]["interval"] is None
    assert benchmarks["math"]["lists"]["accuracy"] == 0.0
    rows = [line for line in to_markdown(data).splitlines() if line.startswith("| ")]
    assert any(re.match(r"\| teacher math \| sums \(greedy\) \| not measured \|", row) for row in rows)
    assert any(re.match(r"\| baseline average \| lists \| unscored \|  \| 0 \| 344 \|", row) for row in rows)
    assert any(
        re.match(r"\| teacher math \| lists \| 0.0% \| 0.0 to 1.1 \| 344 \| 0 \|", row) for row in rows
    )
    accuracy_table = table_of(page, "accuracy")
    cells = {
        row[0]: row[1:]
        for line in re.findall(r"<tr.*?</tr>", accuracy_table, re.DOTALL)
        if (row := [text_of(cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)])
    }
    assert cells["Model"] == ["sums", "sums (greedy)", "lists"]
    assert cells["teacher math"] == ["71.0% 69.0 to 73.0", "not measured", "0.0% 0.0 to 1.1"]
    assert cells["baseline average"] == ["76.0% 74.0 to 78.0", "not measured", "unscored 344 unscored"]
    assert cells["the base"] == ["33.0% 31.0 to 35.0", "not measured", "6.0% 4.0 to 8.0 4 unscored"]


def table_of(page, section):
    """The first table of a section of the page."""
    start = page.index("<table", page.index(f'<section id="{section}"'))
    return page[start : page.index("</table>", start)]


def test_headroom_and_its_absence_are_sentences(data, visible):
    markdown = re.sub(r"\\(.)", r"\1", to_markdown(data))
    for text in (markdown, visible):
        math = ("math: 103.0%", "teacher math", "95% interval 98.0 to 108.0")
        says(text, *math, "+38.0 points, 95% interval 35.0 to 41.0, n = 250")
        code = ("code: not given", "teacher code", "not clearly above the base")
        says(text, *code, f"+2.0 points, 95% interval {MINUS}1.0 to 5.0, n = 86")
    none = to_markdown(hand_made(evaluation={"headroom": ()}))
    says(none, "math: not measured", "no judged problem in common")
    assert to_json(hand_made(evaluation={"headroom": ()}))["headroom"] == {"math": None, "code": None}


def test_several_answers_are_shown_apart_from_the_accuracies(data, page, visible):
    rows = [line for line in to_markdown(data).splitlines() if line.startswith("| the student | ")]
    assert (
        "| the student | sums | 72.2% (70.2 to 74.2, n = 250) | 77.2% (72.2 to 82.2, n = 250) "
        "| 82.2% (77.2 to 87.2, n = 249) | 75.2% (70.2 to 80.2, n = 250) |"
    ) in rows
    lists = next(row for row in rows if row.startswith("| the student | lists | 63.1% (61.1"))
    assert lists.endswith("n = 85) | \N{EN DASH} |"), "programs have no vote, which is not 0%"
    assert "82.2% 77.2 to 87.2 n = 249" in visible
    main = table_of(page, "accuracy")
    assert "pass@" not in main and "maj@" not in main
    assert "<summary>Several answers to a problem: pass@1, pass@2, pass@4, maj@4</summary>" in page
    single = hand_made(evaluation={"models": (ModelRow("student", "student"),)})
    assert "pass@" not in to_markdown(single) + to_html(single)


def test_finish_rate_and_accuracy_when_finished_stand_side_by_side(data, page):
    assert "| 97.5% | 72.8% | 24.5 |" in to_markdown(data)  # 71.0% = 97.5% x 72.8%
    assert re.search(r">97\.5%</td><td class=\"number\">72\.8%</td>", page)


def test_markdown_html_and_json_agree(data, visible):
    markdown = re.sub(r"\\(.)", r"\1", to_markdown(data))
    report = to_json(data)
    for verdict in [report["headline"], *report["questions"], *report["verdicts"]]:
        assert verdict["sentence"] in markdown and verdict["sentence"] in visible
    for limit in [report["opd"], *report["limits"], *report["notes"]]:
        assert limit in markdown and limit in visible
    for row in report["comparisons"]:
        difference = wording.points(row["difference"], plus=True)
        ends = wording.interval(*row["interval"])
        p, adjusted = (wording.p_number(row[key]) for key in ("p_value", "p_adjusted"))
        assert f"| {difference} | {ends} | {p} | {adjusted} | {row['n']} | {row['unscored']} |" in markdown
        shown = (
            rf"{re.escape(difference)} {ends} {row['verdict']} \S+ "
            rf"n = {row['n']}, p = {p}, adjusted {adjusted}"
            + (", primary" if row["primary"] else "")
            + (", 4 answers left out" if row["unscored"] else "")
        )
        assert re.search(shown, visible)
    for text in ("2 min 32 s", "2 h 13 min", "5.0 GiB", "2240", "2239", "1.25", "1.5", "462e3a2"):
        assert text in markdown and text in visible
    assert "the student alone is right on 31 and teacher math alone on 21" in markdown
    assert "the student alone is right on 31 and teacher math alone on 21" in visible


def test_nothing_measured_is_said_and_nothing_breaks():
    empty = hand_made(
        evaluation={
            "models": (ModelRow("student", "student"),),
            "benchmarks": (),
            "comparisons": (),
            "disagreements": (),
        },
        curves={"merge": []},
        wall_seconds={},
        peak_memory_bytes=None,
        routing={},
        provenance={},
        notes=(),
    )
    for text in (to_markdown(empty), text_of(to_html(empty))):
        says(text, "no domain declares a benchmark", "no teacher to compare with", "merge: not measured")
        says(text, "Peak memory: not measured", "Wall time: not measured", "Routing: not measured")
    assert to_json(empty)["peak_memory_bytes"] is None


def test_files_are_written_whole(tmp_path, data, monkeypatch):
    files = write_report(data, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads(files["json"].read_text())["run"] == "demo-math-code"
    before = files["md"].read_text()

    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="no space left"):
        write_report(hand_made(run="another"), tmp_path / "run")
    assert files["md"].read_text() == before
    assert len(list((tmp_path / "run").iterdir())) == 3, "a temporary file was left behind"


def test_markdown_of_a_completion_cannot_break_out(data):
    text = to_markdown(data)
    in_fence, outside = None, []
    for line in text.splitlines():
        if in_fence is None and (opened := re.match(r"(`{3,})\w*$", line)):
            in_fence = opened[1]
        elif line == in_fence:
            in_fence = None
        elif in_fence is None:
            outside.append(line)
    assert in_fence is None
    assert not any(re.search(r"(?<!\\)<script", line) for line in outside)
    assert [line for line in outside if line.startswith("# ")] == ["# demo-math-code".replace("-", "-")]


def test_tables_have_as_many_cells_as_their_heads(data):
    rows = [line for line in to_markdown(data).splitlines() if line.startswith("|")]
    width = None
    for previous, row in zip(["", *rows], rows, strict=False):
        cells = len(re.findall(r"(?<!\\)\|", row)) - 1
        if re.fullmatch(r"[|:\-]+", row):
            width = len(re.findall(r"\|", previous)) - 1
            assert cells == width
        elif width is not None and not re.match(r"\| (Model|Against|Metric|Domain|Stage|Question)[ ,]", row):
            assert cells == width, row


def test_text_helpers():
    assert md("a|b *c* <d>\n`e`") == r"a\|b \*c\* \<d\> \`e\`"
    assert md_code("a ```` b") == "`````text\na ```` b\n`````"
    assert clip("x" * 1200) == "x" * 1200
    assert clip("a" * 700 + "b" * 300 + "c" * 500) == "a" * 700 + "\n[300 characters left out]\n" + "c" * 500
    assert clip("a\x00\ud800b\tc\n") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\tc\n"
