# ruff: noqa: E501
"""Of every grader: each writing of the expected answer passes, no other value does, no text raises or hangs."""

from __future__ import annotations

import json
import time
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from eval.grading.answer_graders import score
from eval.grading.graders import grade_exact, grade_number
from eval.grading.maths.grading import grade_math
from eval.grading.maths.reading import normal
from eval.grading.maths.writing import judged_as_written
from eval.records import Completion
from eval.sandbox.client import run_tests

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=300, deadline=None)

FRACTIONS = st.builds(Fraction, st.integers(-(10**6), 10**6), st.integers(1, 1000))
INTEGERS = st.integers(-(10**18), 10**18)


def said(text):
    return Completion(text, 9, True)


def is_right(expected, text):
    return grade_math(said(f"So \\boxed{{{text}}}."), expected).verdict.value == "pass"


def writings(value: Fraction) -> list[str]:
    """Ways to write a number in which nothing is left to compute."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    n, d = size.numerator, size.denominator
    if d == 1:
        groups = f"{n:,}"
        minus = "\u2212" if sign else ""
        return [
            f"{sign}{n}", f"{sign}{groups}", f"{sign}{groups}".replace(",", "{,}"), f"{sign}{groups}".replace(",", "\\,"),
            f"{minus}{n}", f"{sign}{n}.0", f"({sign}{n})", f"x={sign}{n}", f"${sign}{n}$", f"{sign}{n}.",
            f"\\text{{{sign}{n}}}", f"{sign}{n}^\\circ", f"\\left({sign}{n}\\right)",
        ]  # fmt: skip
    whole, rest = divmod(n, d)
    found = [
        f"{sign}\\frac{{{n}}}{{{d}}}", f"\\frac{{{sign}{n}}}{{{d}}}", f"{sign}{n}/{d}", f"{sign}\\dfrac{{{3 * n}}}{{{3 * d}}}",
        f"y = {sign}\\tfrac{{{n}}}{{{d}}}", f"{sign}\\left(\\frac{{{n}}}{{{d}}}\\right)",
    ]  # fmt: skip
    if whole:
        found.append(f"{sign}{whole}\\frac{{{rest}}}{{{d}}}")
    return found


@MANY
@given(value=FRACTIONS | INTEGERS.map(Fraction), data=st.data())
def test_a_number_in_every_writing_and_no_other_number(value, data):
    ways = writings(value)
    expected, given_text = data.draw(st.sampled_from(ways[:2])), data.draw(st.sampled_from(ways))
    assert is_right(expected, given_text)
    other = data.draw(
        FRACTIONS | st.sampled_from([value + 1, -value, value * 10, value + Fraction(1, 10**30)])
    )
    assume(other != value)
    assert not any(is_right(expected, way) for way in writings(other))


@MANY
@given(value=INTEGERS, other=INTEGERS, data=st.data())
def test_the_last_number_in_every_writing_and_no_other_number(value, other, data):
    ways = [
        f"{value}",
        f"{value:,}",
        f"{value}.0",
        f"{value:,}".replace(",", "{,}"),
        f"it is **{value}**.",
        f"1 of {value}",
    ]
    assert grade_number(said(data.draw(st.sampled_from(ways))), value).verdict.value == "pass"
    assume(other != value)
    for text in (f"{other}", f"{other:,}", f"{value}, no, {other}", f"{value}/7", f"{value}e1", f"{value}.5"):
        assert grade_number(said(text), value).verdict.value == "fail" or value == 0, text


@MANY
@given(text=st.text(min_size=1, max_size=30), other=st.text(max_size=30))
def test_exact_is_the_text_and_nothing_else(text, other):
    assume(text.strip())
    assert grade_exact(said(f"\n {text} "), text).verdict.value == "pass"
    assert (grade_exact(said(other), text).verdict.value == "pass") == (other.strip() == text.strip())


@MANY
@given(values=st.lists(FRACTIONS, min_size=2, max_size=6, unique=True), data=st.data())
def test_lists_of_numbers_by_their_brackets(values, data):
    texts = [writings(value)[0] for value in values]
    shuffled = data.draw(st.permutations(texts))
    joined, mixed = ", ".join(texts), ", ".join(shuffled)
    is_same = texts == list(shuffled)
    assert is_right(f"\\{{{joined}\\}}", f"\\{{{mixed}\\}}") and is_right(joined, mixed)
    assert is_right(f"({joined})", f"({mixed})") == is_same
    assert not is_right(f"({joined})", f"\\{{{joined}\\}}") and not is_right(
        f"\\{{{joined}\\}}", f"({joined})"
    )
    assert not is_right(joined, ", ".join(texts[1:])) and not is_right(joined, f"{joined}, {texts[0]}")


@MANY
@given(low=st.integers(-99, 99), size=st.integers(1, 99), brackets=st.sampled_from(["()", "[]", "(]", "[)"]))
def test_intervals_and_inequalities(low, size, brackets):
    opening, closing = brackets
    high = low + size
    sides = "<" if opening == "(" else "\\le", "<" if closing == ")" else "\\le"
    expected = f"{opening}{low}, {high}{closing}"
    chain, mirrored = f"{low} {sides[0]} x {sides[1]} {high}", f"{high} {sides[1]} x {sides[0]} {low}"
    for text in (chain, mirrored.replace("\\le", "\\ge").replace("<", ">"), f"x \\in {expected}"):
        assert is_right(expected, text) and is_right(text, expected)
    for other in {"()", "[]", "(]", "[)"} - {brackets}:
        assert not is_right(expected, f"{other[0]}{low}, {high}{other[1]}")
    assert not is_right(expected, f"{opening}{low}, {high + 1}{closing}") and not is_right(expected, f"{low}")


@FEW
@given(roots=st.lists(st.integers(-9, 9), min_size=2, max_size=3), lead=st.integers(1, 5), data=st.data())
def test_polynomials_in_every_form_and_no_other(roots, lead, data):
    powers = [lead]
    for root in roots:
        powers = [a - root * b for a, b in zip([*powers, 0], [0, *powers], strict=True)]
    terms = [f"({c})x^{{{len(roots) - place}}}" for place, c in enumerate(powers)]
    expected = "+".join(terms)
    factors = "".join(f"(x-({root}))" for root in data.draw(st.permutations(roots)))
    assert is_right(expected, "+".join(data.draw(st.permutations(terms))))
    assert is_right(expected, f"{lead}{factors}") and is_right(expected, f"y={lead}{factors}")
    assert not is_right(expected, f"{lead}{factors}+1") and not is_right(expected, f"{lead + 1}{factors}")
    assert not is_right(expected, expected.replace("x", "y"))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@FEW
@given(value=JSON_VALUES, other=JSON_VALUES)
def test_json_in_every_layout_and_no_other_value(value, other):
    block = {"kind": "json_schema", "schema": {}, "extract": "whole", "compare_answer": True}
    for layout in (
        json.dumps(value),
        json.dumps(value, indent=3),
        f" {json.dumps(value, separators=(',', ':'))}\n",
    ):
        assert score(block, said(layout), value).value == 1.0
    assume(json.dumps(value, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert score(block, said(json.dumps(other)), value).value == 0.0


@FEW
@given(value=JSON_VALUES, other=JSON_VALUES)
@example(value={}, other={"a": None})
def test_programs_by_what_they_return_and_nothing_else(value, other):
    tests = [{"input": [], "output": value}]
    assert run_tests(f"def f(): return {value!r}", "f", tests).status == "passed"
    assume(json.dumps(value, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert run_tests(f"def f(): return {other!r}", "f", tests).status != "passed"


TOKENS = [
    *"0123456789x(){}[],;:=<>+-*/^_!|.'% $&~", "\\frac", "\\sqrt", "\\{", "\\}", "\\le", "\\ge", "\\in", "\\cup", "\\pm",
    "\\mp", "\\text{", "\\text{ or }", "\\begin{cases}", "\\end{cases}", "\\\\", "\\infty", "\\approx", "\\ldots", "\\equiv",
    "\\pmod", "^\\circ", "\\sin", "\\over", "\\mathbb{R}", "\\left", "\\right", "\\choose", "\\overline", "\u0663", "½", "°",
    " and ", " million", "\\$", "€", "pm", "_8", "{,}", "\\,",
]  # fmt: skip
FORMS = [
    "5", "\\frac{1}{2}", "x+1", "(1,2)", "\\{1,2\\}", "(1,2]", "x<3", "x=5", "3:4", "12:30 \\text{ pm}", "\\text{red}", "1,2,3",
    "(0,1)\\cup(2,3)", "\\pm 2", "2+3i", "x\\equiv3\\pmod7", "52_8", "\\begin{cases} x & x>0 \\\\ 1 & x<0 \\end{cases}",
]  # fmt: skip


@MANY
@given(tokens=st.lists(st.sampled_from(TOKENS), max_size=25), expected=st.sampled_from(FORMS))
def test_no_text_raises_before_the_helper(tokens, expected):
    text = "".join(tokens)
    assert judged_as_written(normal(expected), normal(text)) in (True, False, None)
    assert judged_as_written(normal(text), normal(expected)) in (True, False, None)
    grade_number(said(text), 5)


@FEW
@given(tokens=st.lists(st.sampled_from(TOKENS), max_size=10), expected=st.sampled_from(FORMS))
def test_no_boxed_text_raises_or_is_left_unjudged(tokens, expected):
    text = "".join(tokens)
    assume(text.strip() != expected)
    assert grade_math(said(f"\\boxed{{{text}}}"), expected).verdict.value in ("pass", "fail")


LONG = [
    "(", "{", "=", "x=", ",", "1,", "\\pm", "a", "a ", "\\text{", "\\text{a}", "|", "1 ", "1", "1.", "[1,2[", "\\cup", "1\\cup",
    "\\begin{cases}", "a&b\\\\", ":", "1:", "\\frac", "\\frac{", "\\sqrt", "^", "^{", "'", "1'000", "1 000", "\\over", "{a\\over",
    "\\ldots", ".333", "\\approx", "x\\approx", "<", "x<", "√", "°", "sin", "sin 1°", "1 and ", "\\{", "\\left", "\\mathrm{e}",
    "\\equiv", "\\pmod", "1_", " ", "\\,", "\\\\", "\\in", "x\\in", "%", "$", "1e", "\\{x:", "a-", "f(", "x_{a}", "x'",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_take_no_time(piece):
    text = piece * (9_000 // len(piece))
    started = time.process_time()
    for expected in ("5", "(1,2]", "x<3", "\\text{red}"):
        judged_as_written(normal(expected), normal(text))
    grade_number(said(text), 5)
    assert time.process_time() - started < 3  # 0.2 s alone
