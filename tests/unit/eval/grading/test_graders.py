# ruff: noqa: E501
"""Verdicts of the graders of single answers, with guards against endless computations."""

import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from eval.grading import workers
from eval.grading.graders import as_text, grade_exact, grade_number
from eval.grading.maths.grading import grade_math, last_boxed
from eval.grading.maths.limits import reason_to_refuse
from eval.grading.workers import WorkerLost, WorkerTimeout
from eval.records import Completion, Grade, Verdict


def answer(text, finished=True):
    return Completion(text, 5, finished)


@pytest.mark.parametrize(
    ("given", "expected", "verdict"),
    [
        ("85", "85", "pass"), ("84", "85", "fail"), ("070", "70", "pass"), ("+5", "5", "pass"),
        (r"\frac{1}{2}", "0.5", "pass"), ("1/2", r"\frac{1}{2}", "pass"), ("x^2+2x+1", "(x+1)^2", "pass"),
        (r"\sqrt{23}-2\sqrt{3}", r"\sqrt{23}-2 \sqrt{3}", "pass"), (r"\frac{1}{3}", "0.5", "fail"),
        (r"\text{Tuesday}", "Tuesday", "pass"), ("(1,2)", "(1,2)", "pass"), ("(2,1)", "(1,2)", "fail"),
        ("2^{10}", "1024", "pass"), ("1,000", "1000", "pass"),
    ],
)  # fmt: skip
def test_math_answers(given, expected, verdict):
    assert grade_math(answer(f"so it is \\boxed{{{given}}}."), expected).verdict == verdict


def test_only_the_last_box_counts():
    assert grade_math(answer(r"\boxed{1} or \boxed{2}"), "2").verdict == Verdict.PASS
    assert grade_math(answer(r"\boxed{1} or \boxed{2}"), "1").verdict == Verdict.FAIL


def test_an_answer_without_a_box_fails_and_says_so():
    assert grade_math(answer("the answer is 85"), "85") == Grade(Verdict.FAIL, "no \\boxed{}")
    assert grade_math(answer(r"\boxed{}"), "85").detail == "empty \\boxed{}"
    assert grade_math(answer(r"\boxed{85"), "85").verdict == Verdict.FAIL


def test_a_truncated_answer_fails_even_with_the_right_box():
    assert grade_math(answer(r"\boxed{85}", finished=False), "85") == Grade(Verdict.FAIL, "truncated")
    assert grade_exact(answer("85", finished=False), "85") == Grade(Verdict.FAIL, "truncated")


@pytest.mark.parametrize(
    ("text", "expected", "verdict"),
    [("12 + 70 = 82.", "82", "pass"), ("The sum is **82**", 82, "pass"), ("82 = 12 + 70", "82", "fail"),
     ("1,024", "1024", "pass"), ("0.50", "0.5", "pass"), ("-3", "3", "fail"), ("-3", -3, "pass"),
     ("17-5", 5, "pass"),
     ("none", "82", "fail"), ("x" * 10 + "8" * 300, "82", "fail"), ("82", "eighty", "unscored")],
)  # fmt: skip
def test_the_last_number_counts(text, expected, verdict):
    assert grade_number(answer(text), expected).verdict == verdict


def test_a_truncated_number_fails():
    assert grade_number(answer("82", finished=False), "82") == Grade(Verdict.FAIL, "truncated")


@pytest.mark.parametrize(
    ("text", "content"),
    [(r"\boxed{a{b}c}", "a{b}c"), (r"\boxed{\{1\}}", r"\{1\}"), (r"\boxed{\boxed{5}}", "5"), ("none", None),
     (r"\boxed{a", None)],
)  # fmt: skip
def test_last_boxed(text, content):
    assert last_boxed(text) == content


PATHOLOGICAL = [
    "9^{9^{9^9}}", "9^9^9^9", "(9^{9999})^{9999}", "9^{9999*9999}", "(" * 2000 + "1" + ")" * 2000, "((9!)!)!",
    "100000!", r"\binom{1000000}{500000}", r"\sum_{i=1}^{1000000} i", r"\int_0^1 x^{500} dx", "(1+x)^{3000}",
    "9" * 5000, "9^{9}!", "{" * 30 + "}" * 30, "9^{9^{20}}",
]  # fmt: skip


@pytest.mark.parametrize("expression", PATHOLOGICAL)
def test_pathological_answers_are_refused_before_they_are_parsed(expression):
    started = time.process_time()
    grade = grade_math(answer(f"\\boxed{{{expression}}}"), "3")
    assert grade.verdict == Verdict.FAIL and grade.detail.startswith(("refused", "no \\boxed"))
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    "expression", [r"2^{25} \cdot 26!", "x^2+1", r"\frac{1311}{2017}", "2^{2^3}", "3^{2024}"]
)
def test_usual_answers_are_not_refused(expression):
    assert reason_to_refuse(expression) == ""


def test_a_refused_form_that_is_literally_the_expected_one_passes():
    assert grade_math(answer(r"\boxed{3^{100000}}"), "3^{100000}").verdict == Verdict.PASS


def test_grading_works_in_threads():
    def grade(i):
        return grade_math(answer(f"\\boxed{{\\frac{{{i}}}{{7}}}}"), f"{i}/7").verdict

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(grade, range(1, 7))) == {Verdict.PASS}


def test_an_unparsable_expected_answer_is_unscored():
    assert grade_math(answer(r"\boxed{\frac{1}{2}}"), "").verdict == Verdict.UNSCORED


RIGHT, TIMEOUT, LOST = {"result": "right"}, WorkerTimeout("slow"), WorkerLost("gone")


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([LOST, RIGHT], "pass"), ([LOST, LOST], "unscored"), ([{"error": "bug"}], "unscored"),
        ([TIMEOUT, RIGHT], "fail"), ([TIMEOUT, TIMEOUT], "unscored"),
        ([TIMEOUT, {"result": "wrong"}], "unscored"),
    ],
)  # fmt: skip
def test_a_failing_grader_is_never_a_wrong_answer(monkeypatch, outcomes, verdict):
    monkeypatch.setattr(workers.Worker, "ask", Mock(side_effect=outcomes))
    assert grade_math(answer(r"\boxed{x+1}"), "x+1+0").verdict == verdict


def test_exact():
    assert grade_exact(answer(" yes\n"), "yes").verdict == Verdict.PASS
    assert grade_exact(answer("12"), 12).verdict == Verdict.PASS
    assert grade_exact(answer("Yes"), "yes").verdict == Verdict.FAIL


def test_answers_that_json_holds_as_numbers():
    assert grade_exact(answer("5"), 5.0).verdict == Verdict.PASS
    assert grade_math(answer(r"\boxed{0.00001}"), as_text(0.00001)).verdict == Verdict.PASS
    assert [as_text(value) for value in (5.0, 1e-05, 1e21, 2.5, 7, "x")] == [
        "5", "0.00001", "1000000000000000000000", "2.5", "7", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected", "verdict"),
    [("it is \u22127", "-7", "pass"), ("it is .5", "0.5", "pass"), ("it is .5", "5", "fail"), ("9{,}500", "9500", "pass"),
     ("9\\,500", "9500", "pass"), ("1.5e3", "1500", "pass"), ("1.5e3", "3", "fail"), ("x1e5y", "100000", "fail"),
     ("12 + 70", "82", "fail"), ("3 of 4.", "4", "pass"), ("0.1", "0.10000000000000000000000000001", "fail")],
)  # fmt: skip
def test_numbers_in_any_writing(text, expected, verdict):
    assert grade_number(answer(text), expected).verdict == verdict
