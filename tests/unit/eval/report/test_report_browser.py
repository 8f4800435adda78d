"""The page in a real browser: no horizontal overflow on a phone, both themes, nothing loaded."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from eval.report.render import to_html
from eval.sweep.render import to_html as sweep_page
from merging.reports.compare_runs import compare_runs
from tests.helpers.report_example import complete, hand_made
from tests.helpers.run_folders import answers, config_of, write_run
from tests.helpers.sweep_example import made

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
    pytest.mark.timeout(180),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=3000",
]
DARK = "--blink-settings=preferredColorScheme=0"

MEASURE = """<script>
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, width = root.clientWidth;
  page.querySelectorAll("details").forEach((d) => { d.open = true; });
  const outside = [...page.body.querySelectorAll("*")].filter((e) =>
    !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > width + 0.5);
  const texts = [...page.querySelectorAll("svg text")];
  return {
    width, scroll: root.scrollWidth,
    outside: outside.map((e) => e.outerHTML.slice(0, 80)),
    unreadable: texts.filter((e) => e.getBoundingClientRect().height < 9).length,
    texts: texts.length,
    paper: getComputedStyle(page.body).backgroundColor,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
    focusable: [...page.querySelectorAll(".scroll")].every((e) => e.tabIndex === 0),
  };
}
window.addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.querySelector("#result").textContent = JSON.stringify(found);
});
</script>"""


def framed(pages: list[tuple[str, int]], height: int, script: str = "") -> str:
    """Each (page, width) in a frame of its own: a window cannot be as narrow as a phone."""
    frames = "".join(
        f'<iframe style="border:0;display:block;width:{width}px;height:{height}px" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
        for page, width in pages
    )
    return f'<!doctype html><body style="margin:0">{frames}<pre id="result"></pre>{script}'


def browse(tmp_path, page: str, *flags: str) -> str:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    profile = tmp_path / "profile"
    profile.mkdir()
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def long_names():
    """The same report with words that do not break on their own."""
    return hand_made(
        run="a" * 64,
        notes=["x" * 300],
        provenance={"fingerprint": "0123456789abcdef" * 8},
        wall_seconds={"expert " + "m" * 60: 10.0},
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_a_phone_and_a_screen(tmp_path, theme):
    texts = [to_html(hand_made()), to_html(long_names()), to_html(complete())]
    pages = [(text, width) for text in texts for width in (360, 1200)]
    flags = ["--dump-dom", "--window-size=1300,2000", *([DARK] if theme == "dark" else [])]
    dom = browse(tmp_path, framed(pages, 2000, MEASURE), *flags)
    result = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1]
    for found, (_, width) in zip(json.loads(html.unescape(result)), pages, strict=True):
        assert found["width"] == width
        assert found["scroll"] <= width, found
        assert found["outside"] == [], found
        assert found["texts"] > 20 and found["unreadable"] == 0, found
        assert found["loaded"] == 0 and found["focusable"]
        assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 29)"}[theme]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_comparison_of_two_runs_fits_a_phone_and_a_screen(tmp_path, theme):
    ours, theirs = answers([1] * 8), answers([0] * 8)
    first = write_run(
        tmp_path / ("a" * 64), {"student": ours, "base": theirs}, provenance={"x" * 64: "y" * 300}
    )
    config = {**config_of("b"), "student": "/m" * 150, "evaluation": {"temperature": 0.5}}
    second = write_run(
        tmp_path / ("b" * 64), {"student": theirs, "base": theirs}, config=config, grading="other"
    )
    page = compare_runs(first, second, None).read_text()
    flags = ["--dump-dom", "--window-size=1300,2000", *([DARK] if theme == "dark" else [])]
    dom = browse(tmp_path, framed([(page, 360), (page, 1200)], 2000, MEASURE), *flags)
    result = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1]
    for found, width in zip(json.loads(html.unescape(result)), (360, 1200), strict=True):
        assert found["scroll"] <= width and found["outside"] == [], found
        assert found["loaded"] == 0 and found["focusable"]
        assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 29)"}[theme]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_sweeps_page_fits_a_phone_and_a_screen(tmp_path, theme):
    page = sweep_page(
        made(name="s" * 64, runs=("lambda-1.seed-0", "r" * 90), provenance={"x" * 64: "y" * 300})
    )
    flags = ["--dump-dom", "--window-size=1300,2000", *([DARK] if theme == "dark" else [])]
    dom = browse(tmp_path, framed([(page, 360), (page, 1200)], 2000, MEASURE), *flags)
    result = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1]
    for found, width in zip(json.loads(html.unescape(result)), (360, 1200), strict=True):
        assert found["scroll"] <= width and found["outside"] == [], found
        assert found["texts"] > 20 and found["unreadable"] == 0, found
        assert found["loaded"] == 0 and found["focusable"]
        assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 29)"}[theme]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_screenshots_are_drawn(tmp_path, width, theme):
    """Writes them to `$PROTEGE_SHOTS` where that is set, to be looked at."""
    image = pytest.importorskip("PIL.Image")
    shot = tmp_path / f"report_{width}_{theme}.png"
    flags = [f"--screenshot={shot}", f"--window-size={max(width, 500)},4000"]
    page = framed([(to_html(hand_made()), width)], 4000)
    browse(tmp_path, page, *flags, *([DARK] if theme == "dark" else []))
    drawn = image.open(shot).convert("L").crop((0, 0, width, 4000))
    counts = drawn.histogram()
    ground = counts.index(max(counts))
    assert (ground > 200) == (theme == "light")
    assert sum(counts[level] for level in range(256) if abs(level - ground) > 100) > 5000, "an empty page"
    if "PROTEGE_SHOTS" in os.environ:
        shutil.copy(shot, os.environ["PROTEGE_SHOTS"])
