"""The comparison's page: escaped, self-contained, and what it says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from merging.reports.compare_runs import compare_runs
from tests.helpers.messages import says
from tests.helpers.run_folders import answers, config_of, write_run

RIGHT, HALF, WRONG = [1] * 8, [1, 1, 0, 0, 0, 0, 0, 0], [0] * 8


def pair(tmp_path, **second):
    """Two runs whose students differ and whose bases do not."""
    first = write_run(tmp_path / "a", {"student": answers(RIGHT), "base": answers(WRONG)})
    return first, write_run(tmp_path / "b", {"student": answers(HALF), "base": answers(WRONG)}, **second)


def page_of(first, second) -> str:
    return compare_runs(first, second, None).read_text()


class Page(HTMLParser):
    """Tags of a page, and what its attributes would load."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]


ATTACK = "</dd><script>alert(1)</script><img src=http://evil.example/x> | cell"


def test_the_page_escapes_and_loads_nothing(tmp_path):
    config = {**config_of("b"), "chat_template": {"style": ATTACK}}
    first, second = pair(tmp_path, config=config, provenance={ATTACK: ATTACK}, wall_seconds={ATTACK: 1.0})
    text = page_of(first, second)
    page = Page(text)
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert all(link.startswith("#") for link in page.links)
    assert text.count("&lt;script&gt;alert(1)") >= 3 and "default-src 'none'" in text
    markdown = (first / "compare-b/compare.md").read_text()
    assert not re.search(r"(?<!\\)<script", markdown) and markdown.count(r"\| cell") >= 3


def test_the_page_shows_what_was_measured(tmp_path):
    first, second = pair(tmp_path, grading="other")
    text = page_of(first, second)
    for shown in ("+75.0", "100.0%", "25.0%", "the same answers", "Evaluated otherwise", "1.25"):
        assert shown in text
    assert "Evaluated otherwise" not in page_of(*pair(tmp_path / "x"))


def test_the_page_states_the_lambda_that_was_trained_where_the_report_tells_it(tmp_path):
    first, second = pair(tmp_path)
    report = json.loads((first / "report.json").read_text())
    phases = ((1, 1, 1.25, 1.25), (2, 2, 1.0, 1.0))
    keys = ("first_step", "last_step", "at_first", "at_last")
    report["objective"]["trained"] = {"math": [dict(zip(keys, phase, strict=True)) for phase in phases]}
    (first / "report.json").write_text(json.dumps(report))
    other = json.loads((second / "report.json").read_text())
    del other["objective"]["trained"]  # as a version before it was kept has written it
    (second / "report.json").write_text(json.dumps(other))
    page = page_of(first, second)
    assert "reward scale 1.25 until step 1, then 1, report" in page and "reward scale 1.25, report" in page
    sides = json.loads((first / "compare-b/compare.json").read_text())
    assert sides["first"]["reward_scale"] == sides["second"]["reward_scale"] == {"math": 1.25}
    assert sides["first"]["trained"] == report["objective"]["trained"] and sides["second"]["trained"] == {}


def test_nothing_comparable_is_said_on_the_page(tmp_path):
    first = write_run(tmp_path / "a", {"student": answers(RIGHT)})
    page = page_of(first, write_run(tmp_path / "b", {"student": answers(RIGHT, "more")}))
    says(page, "Nothing", "students", "sums", "only a")
