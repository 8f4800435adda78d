"""The report's page: escaped, self-contained, accessible."""

from __future__ import annotations

import html as html_module
import itertools
import re

import pytest

from eval.report.data import BenchmarkInfo, ModelRow, Score
from eval.report.figures import accuracy_figures
from eval.report.render import TEMPLATES, to_html
from tests.helpers.report_example import Reader, hand_made, text_of


@pytest.fixture(scope="module")
def page() -> str:
    return to_html(hand_made())


def test_the_page_escapes_what_models_wrote(page):
    visible = text_of(page)
    reader = Reader(page)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "img" not in {tag for tag, _ in reader.tags}
    assert html_module.escape('<script>alert("x")</script>', quote=False) in page.replace("&#34;", '"')
    assert '<script>alert("x")</script>' in visible, "the completion is shown as text"
    assert "\x00" not in page and "\x1b" not in page
    assert "# <b>a comment</b>" in visible, "the config is shown verbatim"


def test_the_page_loads_nothing(page):
    reader = Reader(page)
    loading = {"src", "srcset", "poster", "data", "background", "action", "ping"}
    for tag, attributes in reader.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert not loading & attributes.keys(), (tag, attributes)
        for name, value in attributes.items():
            if name.endswith("href"):
                assert value.startswith("#"), (tag, value)
            assert not name.startswith("on"), (tag, name)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page


def test_the_page_is_accessible(page):
    reader = Reader(page)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == 1 and tags.count("main") == 1
    assert ("html", {"lang": "en"}) in reader.tags
    headings = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings)), headings
    ths = [attributes for tag, attributes in reader.tags if tag == "th"]
    assert ths and all(th.get("scope") in {"col", "row", "rowgroup"} for th in ths)
    assert tags.count("table") == tags.count("caption") > 3
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids repeat"
    for tag, attributes in reader.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(key) or "").split()) <= set(ids)
        if tag == "a":
            assert attributes["href"][1:] in ids
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-labelledby"]
        if attributes.get("role") == "region":
            assert attributes["tabindex"] == "0" and attributes["aria-label"]


def test_colours_have_enough_contrast_in_both_themes():
    themes = re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css").read_text(), re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([\w]+): (#\w{6});", theme))
        for name in ("ink", "muted", *(f"c{i}" for i in range(6))):
            for ground in ("paper", "wash"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two sRGB colours."""
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_two_domains_are_a_scatter_and_others_a_dot_plot_each(count):
    domains = ["math", "code", "logic"][:count]
    benchmarks = tuple(BenchmarkInfo(f"{domain}-bench", domain, "sampled") for domain in domains)
    scores = {b.name: Score(0.5, 0.4, 0.6, 100) for b in benchmarks}
    models = (ModelRow("student", "student", scores=scores), ModelRow("base", "base", scores=scores))
    evaluation = {"models": models, "benchmarks": benchmarks, "comparisons": (), "disagreements": ()}
    data = hand_made(evaluation=evaluation, objective=dict.fromkeys(domains, 1.25))
    figures = accuracy_figures(data)
    assert len(figures) == (1 if count == 2 else count)
    assert ("Accuracy in math against accuracy in code" in figures[0].caption) == (count == 2)
    assert "student: math-bench 50.0% (95% interval 40.0 to 60.0)" in figures[0].svg or count != 2
    assert "student: 50.0% (95% interval 40.0 to 60.0)" in figures[0].svg or count == 2
    assert figures[0].caption.count("Diamond: student") == 1
    page = to_html(data)
    assert all(figure.svg in page for figure in figures)
