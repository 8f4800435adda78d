# ruff: noqa: E501, RUF001
"""Of mathematics: answers as models write them, each beside the expected one; and what must not pass."""

from __future__ import annotations

import pytest

from eval.grading.maths.grading import grade_math
from eval.records import Completion

SAME = [
    ("abcd", "dcba"), ("xyz-1", "-1+xyz"), ("xyz/2", r"\frac{xyz}{2}"), ("abc/d", r"\frac{abc}{d}"), ("x=abcd", "x=dcba"),
    ("Paris", "paris"), ("Paris", r"\text{PARIS}"), ("yes", r"\text{Yes}"), ("North", "north"), ("first", r"\text{First}"),
    (r"\ln 2", r"\operatorname{ln}2"), (r"\ln 2", r"\text{ln }2"), (r"\ln 2", "ln 2"), (r"\ln 2", r"\log_e 2"),
    (r"2\ln x", "2ln x"), (r"\ln x", "lnx"), (r"\log_2 5", "log_2 5"), (r"\sin x", "sin x"),
    (r"\cos 2x", r"\operatorname{cos}2x"), (r"\cos x", r"\mathrm{cos}\,x"),
    ("42", r"\text{Answer: } 42"), ("42", r"\text{The answer is } 42"), ("42", r"\text{The answer is 42.}"), ("42", "=42"),
    ("(1000, 2)", "(1{,}000, 2)"), (r"\{1000, 2000\}", r"\{1{,}000, 2{,}000\}"), ("1234567", "١٬٢٣٤٬٥٦٧"), ("3.5", "٣٫٥"),
    (r"\frac{5}{8}", r"\frac{{5}}{{8}}"), (r"-1.6\times10^{-19}", r"-1.6 \times {10}^{-19}"), ("-3", "{-}3"),
    ("3.5", "3{.}5"), ("1024", "{2}^{10}"), ("3", r"\mathbf{{3}}"),
    ("x+1", "𝑥+1"), (r"\frac{\pi}{4}", "𝜋/4"), ("2+3i", "2+3𝑖"), ("a+b", "𝐚+𝐛"), ("42", "\u00ad42"),
    ("42", r"\Large\textbf{42}"), ("42", r"\small 42"), ("42", r"\mathtt{42}"), ("42", r"\textsf{42}"), ("42", r"\text{$42$}"),
    ("42", r"\textcolor{#00f}{42}"), ("42", "**42**"), ("42", "42\\\\"),
]  # fmt: skip

OTHER = [
    ("abCD", "abcd"), ("ABcd", "abCD"), ("abcd", "abCD"), ("abcd", "ABCD"), ("abc-d", "abC-d"), ("abcd", "abce"),
    ("blue", r"\text{lube}"), (r"\text{blue}", r"\text{lube}"), (r"\text{blue}", "lube"), ("Paris", "London"), ("yes", "no"), ("none", "neon"), ("lost", "slot"),
    ("2nl", "ln 2"), ("ln 2", "2nl"), (r"\ln 2", "2nl"), (r"\log 2", r"\log_e 2"), ("cost", r"\cos t"), ("5", r"5\text{ sec}^2 x"),
    ("42", r"\text{not } 42"), ("42", r"\text{never } 42"), ("42", r"\text{answer is not } 42"), ("42", r"\text{Answer: not } 42"),
    ("42", r"\text{The answer is } \text{not } 42"), ("42", r"\text{The answer is 42 or 43.}"), ("82", "=12+70"), ("42", "=41=42"),
    ("(1000, 2)", "(1{,}00, 2)"), ("123", "0{,}124"), (r"\sqrt{2}^{10}", r"\sqrt 2^{10}+1"), ("210^3", "2{10}^3"), ("82", "12{+}70"),
    ("42", r"\text{$41$}"), ("42", r"\textcolor{#42}{41}"), ("42", "4**2"), ("42", "4\\\\2"), ("57", r"5\text{$7$}"),
]  # fmt: skip


def passes(expected, given):
    return grade_math(Completion(f"So \\boxed{{{given}}}.", 9, True), expected).verdict == "pass"


@pytest.mark.parametrize(("expected", "given"), SAME)
def test_the_same_answer(expected, given):
    assert passes(expected, given)


@pytest.mark.parametrize(("expected", "given"), OTHER)
def test_another_answer(expected, given):
    assert not passes(expected, given)
