"""A report made by hand, and how its page is read: shared by the tests of the report."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

from eval.report.build import build
from eval.report.data import BenchmarkInfo, ComparisonRow, Evaluation, ModelRow, ReportData, Score
from eval.report.sections.disagreements import Disagreements, Example
from eval.report.sections.headroom import DecodingShare, Headroom
from eval.statistics.at_k import AtK
from eval.statistics.shares import Recovery, WorstShare

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
    return Score(accuracy, accuracy - 0.02, accuracy + 0.02, n, unscored, 0.975, 24.5, accuracy / 0.975,
                 problems=n // 4)  # fmt: skip


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
    spread = n**0.5 * (hi - lo) / 4
    return ComparisonRow("student", against, benchmark, difference, lo, hi, n, p, spread)


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
SHARES = (
    DecodingShare(
        "sampled",
        Recovery(0.98, 0.93, 1.03, 0.2, 0.17, 0.23, 86),
        WorstShare(None, None, None, None, ("code",)),
    ),
    DecodingShare("greedy", absent="math has no answers of the teacher"),
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
    evaluation = Evaluation(models(), BENCHMARKS, COMPARISONS, DISAGREEMENTS, HEADROOM, shares=SHARES)
    evaluation = dataclasses.replace(evaluation, **changes.pop("evaluation", {}))
    parts = {
        "run": "demo-math-code",
        "created": "2026-11-21 10:00 UTC",
        "config_yaml": "name: demo-math-code\nstudent: Qwen/Qwen3-4B\n# <b>a comment</b>\n",
        "evaluation": evaluation,
        "margin": 0.02,
        "temperature": 1.0,
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


# ------------------------------------------------------------------------- every question is measured

COMPLETE = (
    BenchmarkInfo("sums", "math", "sampled", "185 sums x 4"),
    BenchmarkInfo("sums@greedy", "math", "greedy", "185 sums"),
    BenchmarkInfo("lists", "code", "sampled", "91 programs x 4"),
    BenchmarkInfo("lists@greedy", "code", "greedy", "91 programs"),
)
ACCURACIES = {
    "student": ("student", None, (0.751, 0.839, 0.518, 0.681)),
    "math-teacher": ("teacher", "math", (0.632, 0.778, 0.069, 0.225)),
    "code-teacher": ("teacher", "code", (0.392, 0.667, 0.423, 0.626)),
    "base": ("base", None, (0.372, 0.686, 0.067, 0.220)),
    "average": ("baseline", None, (0.594, 0.814, 0.299, 0.593)),
    "task_arithmetic": ("baseline", None, (0.617, 0.775, 0.412, 0.621)),
}
"""Role, domain and the accuracies on `COMPLETE`."""


def complete(p: dict[tuple[str, str], float] | None = None, **changes) -> ReportData:
    """Two domains at two decodings, each with its own teacher and two weight merges; `p` lays p-values over
    0.001, by other model and benchmark."""
    rows, comparisons = [], []
    for name, (role, domain, values) in ACCURACIES.items():
        scores = {}
        for info, value in zip(COMPLETE, values, strict=True):
            problems = 185 if info.domain == "math" else 91
            half = 1.96 * (value * (1 - value) / problems) ** 0.5 * (0.7 if info.mode == "sampled" else 1)
            answers = problems * (4 if info.mode == "sampled" else 1)
            scores[info.name] = Score(
                value, value - half, value + half, answers, 0, 0.99, 21.0, value, problems=problems
            )
            if name != "student":
                ours = ACCURACIES["student"][2][COMPLETE.index(info)]
                given = (p or {}).get((name, info.name), 0.001)
                row = compared(
                    name, info.name, ours - value, ours - value - half, ours - value + half, problems, given
                )
                comparisons.append(row)
        rows.append(ModelRow(name, role, domain, None, scores))
    shares = tuple(
        DecodingShare(mode, Recovery(1.2, 1.1, 1.3, 0.3, 0.27, 0.33, 91), WorstShare(1.1, 1.0, 1.2, "code"))
        for mode in ("sampled", "greedy")
    )
    evaluation = {
        "models": tuple(sorted(rows, key=lambda model: model.place)),
        "benchmarks": COMPLETE,
        "comparisons": tuple(comparisons),
        "shares": shares,
    }
    return hand_made(**{"evaluation": evaluation | changes.pop("evaluation", {}), **changes})
