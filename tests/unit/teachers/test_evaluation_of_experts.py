"""Scores of an expert beside its base: counted by hand; unscored answers are not wrong ones."""

from __future__ import annotations

import pytest

from teachers.evaluation import scores, sentence, unmeasured, worse
from tests.helpers.judged_answers import answers
from tests.helpers.messages import says


def test_modes_are_scored_apart_and_paired_with_the_base():
    expert = {"bench": [*answers([1, 1, 0, 1]), *answers([0, 0, 0, 1], "greedy")]}
    base = {"bench": [*answers([0, 1, 0, 0]), *answers([0, 0, 0, 1], "greedy")]}
    found = scores(expert, base, seed=0)
    assert found.keys() == {"bench", "bench@greedy"}
    sampled, greedy = found["bench"], found["bench@greedy"]
    assert (sampled["accuracy"], sampled["base"]["accuracy"], sampled["difference"]) == (0.75, 0.25, 0.5)
    assert (greedy["accuracy"], greedy["difference"]) == (0.25, 0.0)
    assert sampled["n"] == sampled["base"]["n"] == 4
    lo, hi = sampled["interval"]
    assert 0 < lo < 0.75 < hi < 1


def test_unscored_answers_are_left_out_and_counted():
    (found,) = scores({"bench": answers([1, None, 0, 1])}, {"bench": answers([0, 0, 0, 0])}, 0).values()
    assert (found["accuracy"], found["n"], found["unscored"]) == (pytest.approx(2 / 3), 3, 1)


def test_nothing_judged_is_not_measured():
    found = scores({"bench": answers([None, None])}, {"bench": answers([1, 0])}, 0)
    score = found["bench"]
    assert (score["accuracy"], score["interval"], score["difference"]) == (None, None, None)
    assert unmeasured(found) == ["bench"] and worse(found) == []
    says(sentence("bench", score), "bench", "not measured", "2 answers unscored")


def test_worse_needs_an_interval_below_zero():
    good, bad = [1] * 20, [0] * 20
    (message,) = worse(scores({"bench": answers(bad)}, {"bench": answers(good)}, 0))
    says(message, "bench", "0.0%", "base's 100.0%", "-100.0 points", "n = 20")
    assert worse(scores({"bench": answers(good)}, {"bench": answers(bad)}, 0)) == []
    slightly = [0, *good[1:]]  # one problem less: within noise
    assert worse(scores({"bench": answers(slightly)}, {"bench": answers(good)}, 0)) == []


def test_the_sentence():
    (found,) = scores(
        {"bench": answers([1, 1, 0, 0], each=2)}, {"bench": answers([0] * 4, each=2)}, 0
    ).values()
    lo, hi = found["interval"]
    says(sentence("bench", found), "bench", "50.0%", f"95% interval {lo:.1%} to {hi:.1%}", "n = 4")
