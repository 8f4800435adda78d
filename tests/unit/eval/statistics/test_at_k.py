"""pass@k against hand-computed values and all draws; votes as a person would count them."""

from __future__ import annotations

import itertools

import pytest

from eval.grading.graders import grade_number
from eval.grading.maths.grading import grade_math
from eval.records import Completion, Sample, Verdict
from eval.statistics.at_k import (
    final_answer,
    has_final_answers,
    majority,
    normalised,
    pass_at_k,
    pass_rates,
)
from eval.statistics.compare import summarise


def sample(problem, index, verdict, answer="1", mode="sampled", finished=True, detail=None):
    return Sample(
        benchmark="b", problem_id=str(problem), mode=mode, index=index, prompt="p",
        completion=f"\\boxed{{{answer}}}", tokens=5, finished=finished, verdict=Verdict(verdict),
        detail=f"answered {answer}" if detail is None else detail,
    )  # fmt: skip


def problem(name, *votes):
    """Samples of one problem from (answer, verdict), in their order."""
    return [sample(name, i, verdict, answer) for i, (answer, verdict) in enumerate(votes)]


# ------------------------------------------------------------------------------------------ pass@k


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [(4, 1, 1, 1 / 4), (4, 1, 2, 1 / 2), (4, 2, 2, 5 / 6), (4, 0, 4, 0.0), (4, 1, 4, 1.0), (5, 2, 3, 9 / 10)],
)
def test_pass_at_k(n, c, k, value):
    assert pass_at_k(n, c, k) == pytest.approx(value)


@pytest.mark.parametrize(("n", "c"), [(6, 0), (6, 2), (7, 5), (7, 7)])
def test_pass_at_k_is_the_mean_over_all_draws(n, c):
    right = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        draws = [any(draw) for draw in itertools.combinations(right, k)]
        assert pass_at_k(n, c, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_of_many_answers_neither_overflows_nor_rounds_away():
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)
    assert pass_at_k(10_000, 5_000, 256) == 1.0


def test_pass_rates_are_means_over_the_problems_with_enough_judged_answers():
    samples = [
        *problem("x", ("1", "pass"), ("2", "fail"), ("2", "fail"), ("2", "fail")),
        *problem("y", ("1", "pass"), ("1", "pass"), ("2", "fail"), ("2", "unscored")),
        *problem("z", ("1", "unscored"), ("1", "unscored"), ("1", "unscored"), ("1", "pass")),
        sample("x", 0, "pass", mode="greedy"),
    ]
    rates = {found.k: found for found in pass_rates(samples)}
    assert list(rates) == [1, 2, 4]
    assert (rates[1].accuracy, rates[1].n) == (pytest.approx((1 / 4 + 2 / 3 + 1) / 3), 3)
    assert (rates[2].accuracy, rates[2].n) == (pytest.approx((1 / 2 + 1) / 2), 2)
    assert (rates[4].accuracy, rates[4].n) == (1.0, 1)


def test_what_no_problem_tells_is_none_and_not_zero():
    rates = pass_rates(problem("x", ("1", "pass"), ("1", "unscored")))
    assert [(found.k, found.n) for found in rates] == [(1, 1), (2, 0)]
    assert (rates[1].accuracy, rates[1].lo, rates[1].hi) == (None, None, None)
    assert pass_rates([]) == pass_rates([sample("x", 0, "pass", mode="greedy")]) == ()


def test_pass_at_1_is_the_accuracy_with_its_interval():
    samples = [
        sample(p, i, "pass" if (p * i) % 3 == 1 else "fail") for p in range(20) for i in range(1 + p % 4)
    ]
    score, first = summarise(samples), pass_rates(samples)[0]
    assert (first.accuracy, first.lo, first.hi) == pytest.approx((score.accuracy, score.lo, score.hi))


# ------------------------------------------------------------------------------------------- votes


def test_the_most_frequent_answer_wins_and_its_verdict_counts():
    votes = majority(
        [
            *problem("right", ("7", "fail"), ("5", "pass"), ("05", "pass"), ("7", "unscored")),
            *problem("wrong", ("5", "pass"), ("7", "fail"), ("7.0", "fail"), ("9", "fail")),
        ]
    )
    assert (votes.k, votes.accuracy, votes.n) == (4, 0.5, 2)


@pytest.mark.parametrize(("first", "accuracy"), [("5", 1.0), ("7", 0.0)])
def test_of_equal_counts_the_first_to_appear_wins(first, accuracy):
    pair = [("5", "pass"), ("7", "fail")]
    ordered = pair if first == "5" else pair[::-1]
    samples = problem("x", *ordered, ("9", "fail"), *ordered[::-1])
    assert majority(samples).accuracy == majority(samples[::-1]).accuracy == accuracy


def test_samples_without_an_answer_have_no_vote():
    silent = [sample("x", i, "fail", "5", finished=False, detail="truncated") for i in range(3)]
    assert majority([*silent, sample("x", 3, "pass", "5")]).accuracy == 1.0
    assert (majority(silent).accuracy, majority(silent).n) == (0.0, 1)


def test_a_vote_takes_two_answers():
    assert majority([]) is None
    assert majority(problem("x", ("5", "pass"))) is None
    assert majority(problem("x", ("5", "unscored"), ("5", "unscored"))) is None
    assert majority([sample("x", i, "pass", mode="greedy") for i in range(2)]) is None


def graded(text, expected, grade=grade_math, finished=True):
    completion = Completion(text, 5, finished)
    judged = grade(completion, expected)
    return Sample("b", "x", "sampled", 0, "p", text, 5, finished, judged.verdict, judged.detail)


LONG = "1" * 70


@pytest.mark.parametrize(
    ("judged", "answer"),
    [
        (graded(r"\boxed{1} or \boxed{ 85 }", "85"), "85"),
        (graded(r"\boxed{84}", "85"), "84"),
        (graded(rf"\boxed{{{LONG}}}", "85"), LONG),
        (graded(r"\boxed{9^{9^{9^9}}}", "85"), "9^{9^{9^9}}"),
        (graded("no box", "85"), None),
        (graded(r"\boxed{}", "85"), None),
        (graded(r"\boxed{85}", "85", finished=False), None),
        (graded("12 + 70 = 82.", "82", grade_number), "82"),
        (graded(r"\boxed{7} apples and 82 pears", "82", grade_number), "82"),
    ],
)
def test_the_answer_is_the_one_that_the_grader_compared(judged, answer):
    assert final_answer(judged) == answer


def test_only_graders_of_final_answers_show_one():
    assert has_final_answers([graded("no box", "85"), graded(r"\boxed{84}", "85")])
    assert has_final_answers([graded("82", "82", grade_number)])
    assert not has_final_answers([graded("no box", "85")])
    programs = ["", "base test 3 failed", "no test was reached", "truncated", "timeout: base test 0 failed"]
    assert not has_final_answers([sample("x", 0, "fail", detail=detail) for detail in programs])


@pytest.mark.parametrize(
    ("a", "b"),
    [("070", "70"), ("+5", "5"), ("-0", "0"), ("1.50", "1.5"), ("2.0", "2"), ("1,000", "1000"),
     (r"\dfrac{1}{2}", r"\frac{1}{2}"), (r"\left( 1, 2 \right)", "(1,2)"), ("$x + 1$", "x+1"),
     (r"\text{Tuesday}", "Tuesday."), (r"5\,\text{ cm}", r"5 \text{cm}"), ("1  2", "1 2")],
)  # fmt: skip
def test_notation_does_not_split_a_vote(a, b):
    assert normalised(a) == normalised(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("5", "-5"), ("1 2", "12"), ("3 1/2", "31/2"), ("1,2", "12"), ("1.05", "1.5"), ("x", "X"), ("10", "1"),
     ("9" * 40, "9" * 39 + "8"), ("0" * 500 + "1", "1")],
)  # fmt: skip
def test_different_answers_stay_different(a, b):
    assert normalised(a) != normalised(b)
