"""A report made by hand, and how its page is read: shared by the tests of the report."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

from eval.report.build import build
from eval.report.data import BenchmarkInfo, ComparisonRow, Evaluation, ModelRow, ReportData, Score
from eval.report.sections.disagreements import Disagreements, Example
from eval.report.sections.headroom import Headroom
from eval.statistics.at_k import AtK
from eval.statistics.intervals import Recovery

MINUS = "\N{MINUS SIGN}"
ATTACK = (
    '</pre><script>alert("x")</script> & <img src="http://evil.example/x.png" onerror=1> ```\n# h1 | cell'
)

BENCHMARKS = (
    BenchmarkInfo("sums", "math", "sampled", "250 sums x 4", 1.0),
    BenchmarkInfo("sums@greedy", "math", "greedy", "250 sums"),
    BenchmarkInfo("lists", "code", "sampled", "86 programs x 4", 0.988),
)


def score(accuracy: float, n: int = 1000, unscored: int = 0) -> Score:
    return Score(accuracy, accuracy - 0.02, accuracy + 0.02, n, unscored, 0.975, 24.5, accuracy / 0.975)


def several(accuracy: float, n: int, voted: bool) -> Score:
    """A score of four answers to each problem, of which the last ones of one problem are unscored."""
    rates = (
        AtK(1, accuracy, accuracy - 0.02, accuracy + 0.02, n),
        AtK(2, accuracy + 0.05, accuracy, accuracy + 0.1, n),
        AtK(4, accuracy + 0.1, accuracy + 0.05, accuracy + 0.15, n - 1),
    )
    vote = AtK(4, accuracy + 0.03, accuracy - 0.02, accuracy + 0.08, n) if voted else None
    return dataclasses.replace(score(accuracy, 4 * n), pass_at=rates, majority=vote)


def compared(
    against: str, benchmark: str, difference: float, lo: float, hi: float, n: int = 250, p: float = 0.001
) -> ComparisonRow:
    verdict = "beats" if lo > 0 else "below" if hi < 0 else "matches within noise"
    return ComparisonRow("student", against, benchmark, difference, lo, hi, n, p, verdict)


def models() -> tuple[ModelRow, ...]:
    return (
        ModelRow(
            "student",
            "student",
            None,
            "runs/demo/student",
            {
                "sums": several(0.722, 250, True),
                "sums@greedy": score(0.8, 250),
                "lists": several(0.631, 86, False),
            },
        ),
        ModelRow(
            "math",
            "teacher",
            "math",
            "experts/math",
            {"sums": score(0.71), "lists": Score(0.0, 0.0, 0.011, 344)},
        ),
        ModelRow(
            "code", "teacher", "code", "experts/code", {"sums": score(0.36), "lists": score(0.702, 344)}
        ),
        ModelRow("base", "base", None, "base", {"sums": score(0.33), "lists": score(0.06, 340, unscored=4)}),
        ModelRow(
            "average", "baseline", None, None, {"sums": score(0.76), "lists": Score(None, None, None, 0, 344)}
        ),
    )


COMPARISONS = (
    compared("math", "sums", 0.012, -0.004, 0.028, p=0.6),
    compared("math", "lists", 0.631, 0.58, 0.68, 86),
    compared("code", "sums", 0.362, 0.33, 0.39),
    compared("code", "lists", -0.071, -0.11, -0.032, 86),
    compared("base", "sums", 0.392, 0.36, 0.42),
    dataclasses.replace(compared("base", "lists", 0.571, 0.52, 0.62, 86), unscored=4),
    compared("average", "sums", -0.038, -0.06, -0.016, p=0.04),
)
HEADROOM = (
    Headroom("math", "math", "sums", Recovery(1.03, 0.98, 1.08, 0.38, 0.35, 0.41, 250)),
    Headroom("code", "code", "lists", Recovery(None, None, None, 0.02, -0.01, 0.05, 86)),
)
DISAGREEMENTS = (
    Disagreements(
        "math",
        "math",
        "greedy",
        250,
        31,
        21,
        (
            Example(
                "student",
                "sums",
                "p<17>",
                f"Math: 37+48 {ATTACK}",
                f"85 {ATTACK}",
                "\\boxed{75}\x00\x1b[31m",
                "",
                ATTACK,
            ),
        ),
    ),
    Disagreements("code", "code", "sampled", 0, 0, 0),
)
CURVES = {
    "expert math": [{"step": i, "critic/score/mean": i / 10, "perf/time": 3.0} for i in range(1, 6)],
    "merge": [
        {
            "step": i,
            "teacher/math/implicit_reward": 0.1 * i,
            "teacher/code/implicit_reward": -0.25 * i,
            "teacher/math/entropy": float("nan") if i == 2 else 0.5,
            "actor/entropy": 0.4,
        }
        for i in range(1, 4)
    ],
    "baseline opd": [{"step": 1, "teacher/math/implicit_reward": 0.0, "actor/entropy": 0.3}],
}


def hand_made(**changes) -> ReportData:
    """A report whose every number is written above."""
    evaluation = Evaluation(models(), BENCHMARKS, COMPARISONS, DISAGREEMENTS, HEADROOM)
    evaluation = dataclasses.replace(evaluation, **changes.pop("evaluation", {}))
    parts = {
        "run": "demo-math-code",
        "created": "2026-11-21 10:00 UTC",
        "config_yaml": "name: demo-math-code\nstudent: Qwen/Qwen3-4B\n# <b>a comment</b>\n",
        "evaluation": evaluation,
        "objective": {"math": 1.25, "code": 1.5},
        "routing": {"math": 2240, "code": 2239},
        "curves": CURVES,
        "wall_seconds": {"expert math": 152.04, "merge": 8000.0},
        "peak_memory_bytes": 5 * 2**30,
        "provenance": {"commit": "462e3a2", "seeds": "training 42"},
        "notes": ["Step 31: the finish rate of code fell to 0.88."],
    }
    return build(**(parts | changes))


class Reader(HTMLParser):
    """Start tags with attributes, and the text outside `<style>`."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.hidden = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden = tag == "style"

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        if not self.hidden:
            self.text.append(data)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Reader(page).text).replace("\N{NO-BREAK SPACE}", " "))
