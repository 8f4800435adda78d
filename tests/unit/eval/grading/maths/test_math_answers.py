# ruff: noqa: E501, RUF001
"""Pairs of an expected and a given answer in mathematics, by the kind of notation that they try."""

import pytest

from eval.grading.maths.grading import grade_math
from eval.records import Completion, Verdict

RIGHT = {
    "separators": [
        ("12345", r"12\,345"), ("12345", r"12\;345"), ("12345", "12~345"), ("12345", r"12\ 345"), ("12345", "12 345"),
        ("12345", "12{,}345"), ("1234567", "1,234,567"), ("1234567", r"1\,234\,567"), ("1000", "1,\\!000"),
        ("12345.5", "12,345.5"), (r"12\,345", "12345"), ("1 000", "1000"), ("12345", "12\u202f345"),
    ],
    "products": [
        ("12", "(3)(4)=12"), ("12x", "(3)(4)x"), (r"12\pi", r"(3)(4)\pi"), (r"6\pi", r"2(3)\pi"), (r"3(x+1)", "3x+3"),
        ("(x+1)(x+2)", "x^2+3x+2"),
    ],
    "exact": [
        (r"\frac{1}{2^{99}}", r"2^{-99}"), (r"1-\frac{1}{2^{99}}", r"\frac{2^{99}-1}{2^{99}}"), ("0.0000002", r"2\times10^{-7}"),
        ("e^{-101}", r"\frac{1}{e^{101}}"), ("0.5", r"\frac{1}{2}"), (r"\frac{4}{11}", r"0.\overline{36}"),
        (r"\frac13", r"0.\overline{3}"), (r"\frac16", r"0.1\overline{6}"), ("10!", "3628800"), (r"\binom{5}{2}", "10"),
        ("1024", "2^{10}"), ("2^{100}", "1267650600228229401496703205376"), (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt2}{2}"), (r"\log_2 8 + x", "3+x"), (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
        (r"\frac{\pi}{4}", r"0.25\pi"), (r"2^{100000}", r"2^{100000}"), (r"\sum_{k=1}^{10} k^2", "385"),
        (r"\ln 8", r"3\ln 2"), (r"\frac{3+\sqrt5}{2}", r"\frac{1}{2}(3+\sqrt{5})"),
    ],
    "signs": [
        ("90", "90°"), ("90", r"90^\circ"), ("90", r"90^{\circ}"), ("90^\\circ", "90"), (r"28\%", "28%"), ("28", "28%"),
        ("0.28", "28\\%"), (r"28\%", "28"), ("5", "5."), ("Yes", "Yes."), ("Yes", r"\text{Yes}."), ("yes", r"\textbf{Yes}"),
        ("1500", "1.5e3"), ("1500", r"1.5\times 10^3"), ("1500", r"1.5 \cdot 10^{3}"), ("0.00001", "1e-05"),
        (r"\sqrt2", "√2"), (r"\sqrt{12}", "2√3"), (r"\frac{\sqrt{3}}{2}", "√3/2"), ("-5", "\u22125"), ("-5", "–5"),
        (r"\frac12", "½"), ("2.5", "2½"), ("x^2", "x²"), (r"2\pi", "2π"), ("12", "１２"), ("5", "$5$"), ("5", r"\(5\)"),
        ("5", "+5"), ("70", "070"), ("5.0", "5"), (".5", "0.5"), ("5", "5.000"), ("1000", r"\$1,000"), ("5", "x=5"),
        ("5", r"x = 5"), ("82", "12+70=82"), ("5", "(5)"), ("5", "{5}"), (r"\frac{3}{4}", "3/4"), (r"\frac{-3}{4}", "-3/4"),
        (r"-\frac34", r"\frac{3}{-4}"), (r"\dfrac{3}{4}", r"\tfrac34"), (r"\frac{7}{3}", r"2\frac{1}{3}"),
        (r"\frac{7}{3}", "2 1/3"), (r"2\frac13", r"\frac73"),
    ],
    "notation": [
        (r"\binom{n}{k}", r"\dbinom{n}{k}"), (r"\binom{n}{k}", r"{n \choose k}"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
        (r"\sum_{k=1}^n k", r"\sum_{k=1}^{n} k"), (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"), ("n!", "n !"),
        ("(n+1)!", r"\left(n+1\right)!"), ("(n+1)!", r"(n+1) \cdot n!"), (r"x\equiv3\pmod7", r"x \equiv 3 \pmod{7}"),
        (r"x\equiv3\pmod7", r"x\equiv 10 \pmod 7"), (r"x\equiv3\pmod{7}", r"x\equiv 3\ (\text{mod } 7)"),
        (r"1,2,\ldots,n", r"1, 2, \dots, n"), (r"1,2,\ldots,n", "1,2,...,n"), ("52_8", "52_{8}"), (r"\infty", "∞"),
        (r"[1,2)", r"\left[1, 2\right)"), (r"(-\infty, 3]", r"(-∞,3]"), ("(1,2)", r"\left( 1, 2 \right)"), ("1,2", "2, 1"),
        ("1,2", r"1 \text{ and } 2"), ("1,2", "x=1 or x=2"), (r"\{1,2\}", r"\{2, 1\}"), (r"\pm 2", "2,-2"), ("2,-2", r"\pm2"),
        ("x^2+2x+1", "(x+1)^2"), ("2x+y=3", "y=3-2x"), (r"\text{(A)}", r"\text{(A)}"), ("3+4i", "4i+3"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), ("a>2", "2<a"), (r"x \le 2", r"x\leq2"),
    ],
    "found by an adversary": [
        (r"\log_2 3", r"\log_2(3)"), (r"\log_2 7", r"\log_{2}(7)"), (r"\sin^2 x", r"\sin^2(x)"), ("204", r"\text{204}"),
        (r"\{123,456\}", r"\{123, 456\}"), (r"\{10,200\}", r"\{200,10\}"), ("204", "m+n=204"), ("204", "f(2)=204"),
        ("12.50", r"\$12.50"), ("R^2-r^2", "(R-r)(R+r)"), ("3", r"3\text{ apples}"), ("5", r"AB=5"),
    ],
    "units": [
        ("5", r"5\text{ cm}"), ("5", "5 cm"), (r"5\text{ cm}", "5"), (r"5\text{ cm}", r"5 \mathrm{cm}"), ("5 m", "5 meters"),
        ("82", r"82 \text{ apples}"), (r"12\text{ cm}^2", r"12 \text{ cm}^{2}"),
    ],
}  # fmt: skip

WRONG = {
    "numbers side by side": [
        ("357", r"12\,345"), ("357", r"12\;345"), ("357", "12~345"), ("357", r"12\ 345"), ("357", "12 345"), ("7", "(3)(4)"),
        ("5", "2(3)"), ("7", "3 4"), ("7", r"3\,4"), ("7", r"3 \cdot 4"), ("34", "3 4"), ("12", "1 2"),
    ],
    "left to compute": [
        ("82", "12+70"), ("82", "100-18"), ("12", r"3\cdot 4"), ("12", "3*4"), ("12", "3 × 4"), ("82", "164/2"), ("12", "(3)(4)"),
        ("82", r"\frac{164}{2}"), ("82", r"41 \times 2"), ("82", "12 + 70 ="), ("82", r"\text{12+70}"), ("-3", "2-5"), ("6", "2(3)"),
        ("82", r"\sum_{k=1}^{2} 41"), ("0.5", "0.2+0.3"), (r"\frac{5}{6}", r"\frac12+\frac13"), ("1,2", "0+1,1+1"), ("(1,2)", "(0+1,2)"),
        (r"\frac{\pi}{4}", r"\int_0^1 \sqrt{1-x^2} dx"),
    ],
    "exact": [
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"), (r"1-\frac{1}{2^{99}}", r"1-\frac{1}{2^{98}}"), ("0.0000002", "0.0000001"),
        ("e^{-101}", "e^{-100}"), (r"\frac{1}{3}", "0.333"), (r"\frac{2}{3}", "0.67"), ("10!+1", "10!"), (r"2^{100}", "2^{100}+1"),
        (r"\binom{50}{25}", r"\binom{50}{24}"), (r"\frac{x}{2^{99}}", r"\frac{x}{2^{98}}"), (r"\sqrt{2}", "1.41"), ("0.1", "0.10001"),
        ("123456789012345678901", "123456789012345678902"), (r"\{\frac{1}{2^{99}}, 1\}", r"\{\frac{1}{2^{98}}, 1\}"),
        (r"(0.0000001, x)", r"(0.0000002, x)"), (r"2^{100000}", r"2^{100001}"), ("3.14", r"\pi"), (r"\pi", "3.14159265358979"),
    ],
    "parts": [
        (r"1,2,\ldots,n", "2"), (r"1,2,\ldots,n", "1,2"), (r"x\equiv3\pmod7", r"x\equiv3\pmod8"), (r"x\equiv3\pmod7", "3"),
        (r"x\equiv3\pmod7", r"x\equiv4\pmod7"), ("52_8", "52"), ("52", "52_8"), ("52_8", "52_9"), ("1,2", "1"), ("1,2", "1,2,3"),
        ("1,2", "1,3"), ("(1,2)", "(2,1)"), ("[1,2)", "[1,2]"), ("(1,2)", "[1,2]"), (r"\pm 2", "2"), ("2", r"\pm 2"), ("x+1", "1"),
        ("x=1", "y=1"), ("2x", "2"), ("5x", "5"), ("5", "5x"), ("5", "5i"), (r"\binom{n}{k}", r"\binom{n}{k+1}"), ("3,5", "35"),
        (r"\sum_{k=1}^n k", r"\sum_{k=1}^{n} k^2"), (r"\sum_{k=1}^{n} k", r"\frac{n(n-1)}{2}"), ("yes", "no"), ("Tuesday", "Wednesday"),
    ],
    "found by an adversary": [
        ("3", r"3\text{5}"), ("3", r"3\text{/4}"), ("3", r"3\text{-1}"), ("3", r"3\text{ }^2"), ("3", r"3\text{C2}"),
        ("204", r"204\text{x}"), ("204", r"204\mathbf{x}"), ("3", "3 xy"), ("204", r"204\text{ to 210}"), ("3", r"3\text{ fifths}"),
        ("204", r"204\text{ over five}"), ("3", r"3\text{ is wrong}"), ("3", r"3\text{ at least}"), ("R^2-r^2", "0"),
        ("R^2-r^2", "r^2-R^2"), ("x", "X"), (r"\frac{Mv}{M+m}", r"\frac{v}{2}"), (r"\{123,456\}", r"\{123456\}"),
        ("5", "2x=5"), ("5", "x+1=5"), ("5", "x^2=5"), ("5", "-x=5"), ("5", r"\text{not }=5"), ("204", "2$04"), ("204", r"20\$4\$"),
    ],
    "units": [("5 m", "5 cm"), (r"5\text{ m}", r"5\text{ cm}"), ("5", r"5 \text{ million}"), ("5", r"5\text{ or }6"), ("5", r"\text{5 or 6}")],
    "signs": [("5", "-5"), ("-5", "5"), ("28%", "29%"), (r"28\%", "2.8"), ("0.5", "5"), (".5", "5"), ("1500", "1.5"), ("3", "1.5e3"),
              ("-7", "7"), ("7", "\u22127"), (r"\frac{7}{3}", r"\frac{2}{3}"), (r"2\frac13", r"\frac23")],
}  # fmt: skip


def verdict(expected, given):
    grade = grade_math(Completion(f"So it is \\boxed{{{given}}}.", 9, True), expected)
    return f"{grade.verdict.value}: {grade.detail}"


def pairs(kinds):
    return [
        pytest.param(*pair, id=f"{kind}:{pair[0]}|{pair[1]}") for kind, of in kinds.items() for pair in of
    ]


@pytest.mark.parametrize(("expected", "given"), pairs(RIGHT))
def test_right_answers_pass(expected, given):
    assert verdict(expected, given).startswith(Verdict.PASS.value)


@pytest.mark.parametrize(("expected", "given"), pairs(WRONG))
def test_other_answers_fail(expected, given):
    assert verdict(expected, given).startswith(Verdict.FAIL.value)
