"""Figures are valid, labelled SVG that follows the page's theme."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from eval.report import plots
from eval.report.plots import Line, Point

POINTS = [
    Point("student", "student", (0.722, 0.70, 0.74), (0.631, 0.60, 0.66)),
    Point("teacher <code> $x$", "teacher", (0.36, 0.33, 0.39), (0.59, 0.56, 0.62)),
    Point("base", "base", (0.0, 0.0, 0.01), (1.0, 0.99, 1.0)),
    Point("average", "baseline", (0.76, 0.74, 0.78), (0.38, 0.35, 0.41)),
]
FIGURES = {
    "scatter": lambda key: plots.scatter(key, POINTS, "math", "code", "A & B", 'said "so"'),
    "dots": lambda key: plots.dot_plot(key, POINTS, "math", "A & B", 'said "so"'),
    "decodings": lambda key: plots.scatter(
        key, [replace(POINTS[0], then=POINTS[3]), POINTS[2]], "math", "code", "A & B", 'said "so"'
    ),
    "forest": lambda key: plots.forest(
        key, [Point("math", "teacher", (0.05, -0.01, 0.11))], 0.02, "A & B", 'said "so"'
    ),
    "lines": lambda key: plots.line_plot(
        key,
        [Line("math", [1, 2], [0.1, 0.2]), Line("code", [1, 2], [0.3, 0.1], 1, 1)],
        "nats",
        "A & B",
        'said "so"',
    ),
    "bars": lambda key: plots.bars(
        key, [("merge", 100.0, "1 min 40 s"), ("route", 0.0, "0.0 s")], "A & B", 'said "so"'
    ),
}


@pytest.fixture(params=FIGURES)
def figure(request) -> str:
    return FIGURES[request.param]("fig")


def test_a_figure_is_well_formed_and_described(figure):
    root = ElementTree.fromstring(figure)
    assert root.tag == "svg" and root.get("role") == "img"
    assert root.get("aria-labelledby") == "fig-title fig-desc"
    assert (root[0].tag, root[0].text) == ("title", "A & B")
    assert (root[1].tag, root[1].text) == ("desc", 'said "so"')
    assert root.get("viewBox").startswith("0 0 360 ")


def test_every_colour_is_a_variable_of_the_theme(figure):
    assert not re.search(r"#[0-9a-f]{6}\b", figure), "a fixed colour would vanish in one of the themes"
    used = set(re.findall(r"var\((--\w+)\)", figure))
    assert used <= set(plots.VARIABLES.values()) and "--ink" in used
    assert "font-family" not in figure and "<style" not in figure and "<metadata" not in figure


def test_text_is_text(figure):
    words = [element.text for element in ElementTree.fromstring(figure).iter("text")]
    assert {"math", "student", "merge", "average"} & set(words)


def test_figures_of_one_page_share_no_id():
    ids = [re.findall(r'\bid="([^"]+)"', draw(key)) for key, draw in FIGURES.items()]
    everything = [name for names in ids for name in names]
    assert len(everything) == len(set(everything))
    for svg in (draw(key) for key, draw in FIGURES.items()):
        own = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)) <= {(i, "") for i in own} | {
            ("", i) for i in own
        }


def test_the_same_figure_is_the_same_text():
    assert FIGURES["scatter"]("fig") == FIGURES["scatter"]("fig")


def test_labels_of_others_stay_text():
    words = [e.text for e in ElementTree.fromstring(FIGURES["dots"]("fig")).iter("text")]
    assert "teacher <code> $x$" in words, "no markup, no formula"


def test_points_lie_where_their_accuracies_say():
    """With symmetric values the middle point lies halfway between the outer ones."""
    three = [
        Point(n, "student", (v, v - 0.01, v + 0.01), (v, v - 0.01, v + 0.01))
        for n, v in zip("abc", (0.2, 0.5, 0.8), strict=True)
    ]
    root = ElementTree.fromstring(plots.scatter("fig", three, "math", "code", "t", "d"))
    at = [(float(use.get("x")), float(use.get("y"))) for use in root.iter("use")]
    assert len(at) == 3
    assert at[1][0] == pytest.approx((at[0][0] + at[2][0]) / 2, abs=0.01)
    assert at[0][1] > at[1][1] > at[2][1], "higher accuracy is drawn higher"
    assert at[1][1] == pytest.approx((at[0][1] + at[2][1]) / 2, abs=0.01)


def test_a_second_decoding_is_a_hollow_mark_at_the_end_of_a_line():
    """One label for both; the filled mark has its role's colour inside, the hollow one the paper's."""
    pair = replace(POINTS[0], then=replace(POINTS[0], x=(0.9, 0.88, 0.92)))
    alone, both = (
        ElementTree.fromstring(plots.scatter("fig", [point], "math", "code", "t", "d"))
        for point in (POINTS[0], pair)
    )
    assert [len(list(root.iter("use"))) for root in (alone, both)] == [1, 2]
    assert sum(e.text == "student" for e in both.iter("text")) == 1
    fills = [re.search(r"fill: ([^;]+)", use.get("style"))[1] for use in both.iter("use")]
    assert fills == ["var(--c0)", "var(--paper)"]


def test_roles_differ_by_more_than_colour():
    styles = plots.ROLE_STYLES.values()
    assert len({style.marker for style in styles}) == len({style.colour for style in styles}) == 4


def test_labels_of_close_points_do_not_cover_each_other():
    close = [
        Point(f"model {i}", "baseline", (0.5 + i / 500, 0.48, 0.52), (0.5, 0.48, 0.52)) for i in range(4)
    ]
    close.append(Point("far", "base", (0.1, 0.08, 0.12), (0.1, 0.08, 0.12)))
    root = ElementTree.fromstring(plots.scatter("fig", close, "math", "code", "t", "d"))
    labels = [e for e in root.iter("text") if (e.text or "").startswith("model")]
    places = [tuple(float(e.get(axis)) for axis in "xy") for e in labels]
    assert len(places) == 4
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert abs(y - other_y) > 10 or abs(x - other_x) > 40, places


def test_a_users_matplotlibrc_changes_nothing():
    import matplotlib

    expected = FIGURES["lines"]("fig")
    with matplotlib.rc_context({"axes.labelsize": 30, "axes.linewidth": 7, "font.size": 30}):
        assert FIGURES["lines"]("fig") == expected
        assert matplotlib.rcParams["font.size"] == 30, "settings must come back"


def test_importing_the_report_does_not_load_matplotlib():
    code = (
        "import sys, eval.report.plots, eval.report.render, eval.report.model_card; "
        "heavy = {'matplotlib', 'numpy', 'torch', 'jinja2'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_whole_report_takes_less_than_5_seconds(tmp_path):
    """Of processor time, which a busy machine does not stretch."""

    from eval.report.render import write_report
    from tests.helpers.report_example import hand_made

    start = time.process_time()
    write_report(hand_made(), tmp_path)
    assert time.process_time() - start < 5
