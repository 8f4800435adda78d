"""Pairs of an expected and a given answer by kind (`tests/data/math_answers.tsv`), each with its verdict."""

from __future__ import annotations

from collections import defaultdict

import pytest

from eval.grading.maths.grading import grade_math
from eval.records import Completion
from tests.helpers.paths import ROOT

VERDICTS = {"=": "pass", "!": "fail"}


def corpus() -> dict[str, list[tuple[str, str, str]]]:
    """(verdict, expected, given) by kind."""
    found, kind = defaultdict(list), ""
    for line in (ROOT / "tests" / "data" / "math_answers.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind = line.removeprefix("# kind: ")
        else:
            verdict, expected, given = line.split("\t")
            found[kind].append((VERDICTS[verdict], expected, given))
    return dict(found)


CORPUS = corpus()


@pytest.mark.parametrize("kind", CORPUS)
def test_every_pair_gets_its_verdict(kind):
    found = {
        (expected, given): (verdict, grade_math(Completion(f"So \\boxed{{{given}}}.", 9, True), expected))
        for verdict, expected, given in CORPUS[kind]
    }
    assert {pair: grade for pair, (verdict, grade) in found.items() if grade.verdict != verdict} == {}


def test_the_corpus_is_whole():
    pairs = [pair for kind in CORPUS.values() for pair in kind]
    assert sum(verdict == "pass" for verdict, *_ in pairs) > 450
    assert sum(verdict == "fail" for verdict, *_ in pairs) > 1200
