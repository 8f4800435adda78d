# ruff: noqa: E501
"""Every answer and program on which a verdict was once wrong, with the right one.

More of each kind: `tests/data/math_answers.tsv`, `tests/unit/eval/grading`, and of LiveCodeBench's
`test_livecodebench.py`.
"""

from __future__ import annotations

import pytest

from configs.blocks.benchmarks import EvalPlusBenchmark
from eval.benchmarks import open_benchmark
from eval.grading.answer_graders import score
from eval.grading.graders import as_text, grade_exact, grade_number
from eval.grading.maths.grading import grade_math
from eval.grading.usable import unusable
from eval.records import Completion
from teachers.rewards import REWARDS
from tests.helpers.paths import DEMO


def said(text):
    return Completion(text, 9, True)


@pytest.mark.parametrize(
    ("expected", "given", "verdict"),
    [
        ("12345", r"12\,345", "pass"), ("12345", r"12\;345", "pass"), ("12345", "12~345", "pass"),
        ("12345", r"12\ 345", "pass"), ("12345", "12 345", "pass"), ("357", r"12\,345", "fail"),
        ("7", "(3)(4)", "fail"), ("12", "(3)(4)", "fail"), ("12", "(3)(4)=12", "pass"), ("5", "2(3)", "fail"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "fail"), (r"1-\frac{1}{2^{99}}", r"1-\frac{1}{2^{98}}", "fail"),
        ("0.0000002", "0.0000001", "fail"), ("e^{-101}", "e^{-100}", "fail"),
        (r"x\equiv3\pmod7", r"x\equiv3\pmod8", "fail"), (r"1,2,\ldots,n", "2", "fail"),
        ("90", "90°", "pass"), ("28%", r"28\%", "pass"), (r"28\%", "28%", "pass"), ("5", "5.", "pass"), ("Yes", "Yes.", "pass"),
        ("1500", "1.5e3", "pass"), (r"\sqrt2", "√2", "pass"), (r"\frac4{11}", r"0.\overline{36}", "pass"),
        (r"\binom{n}{k}", r"\dbinom{n}{k}", "pass"), (r"\sum_{k=1}^n k", r"\sum_{k=1}^{n} k", "pass"),
        (r"\sum_{k=1}^n a_k", r"\sum_{k=1}^{n} a_k", "pass"), ("(n+1)!", "( n + 1 ) !", "pass"),
        (as_text(0.00001), "0.00001", "pass"), (as_text(0.00001), "1e-05", "pass"),
        ("5 m", "5 cm", "fail"), ("52_8", "52", "fail"), ("82", "12+70", "fail"),
    ],
)  # fmt: skip
def test_mathematics(expected, given, verdict):
    assert grade_math(said(f"\\boxed{{{given}}}"), expected).verdict == verdict


def test_a_box_with_a_space_before_its_brace():
    assert grade_math(said(r"so \boxed {5}"), "5").verdict == "pass"


@pytest.mark.parametrize(
    ("text", "expected", "verdict"),
    [("\u22125", "-5", "pass"), ("\u22125", "5", "fail"), (".5", "0.5", "pass"), (".5", "5", "fail"),
     ("9{,}500", "9500", "pass"), ("9{,}500", "500", "fail"), ("1.5e3", "1500", "pass"), ("1.5e3", "3", "fail"),
     ("1/2", "0.5", "pass"), ("1/2", "2", "fail"), (r"\frac{1}{2}", "0.5", "pass"), ("2^3", "8", "pass"), ("2^3", "3", "fail"),
     ("164/2", "82", "fail"), ("9 cm^2", "9", "pass"), ("on 3/4/2020", "2020", "pass"), (r"-\frac12", "-0.5", "pass")],
)  # fmt: skip
def test_the_last_number(text, expected, verdict):
    assert grade_number(said(text), expected).verdict == verdict


def test_an_integer_that_json_holds_as_a_float():
    assert grade_exact(said("5"), 5.0).verdict == "pass"
    block = {"kind": "regex", "pattern": r"(\d+)", "group": 1, "match": "last", "flags": []}
    assert score(block, said("5"), 5.0).value == 1.0


CODE = {"prefix": "", "entry_point": "f"}


@pytest.mark.parametrize(
    ("returned", "output", "reward"),
    [("(1, 3)", [1, 3], 1.0), ("[(1, 3)]", [[1, 3]], 1.0), ("{1: 2}", {"1": 2}, 1.0), ("{1: 3}", {"1": 2}, 0.0), ("{'a': 1}", {}, 0.0)],
)  # fmt: skip
def test_values_that_json_cannot_hold(returned, output, reward):
    answer = {**CODE, "tests": [{"input": [], "output": output}]}
    assert REWARDS["code"](f"```python\ndef f():\n    return {returned}\n```", answer, True) == reward


PROGRAM = "def f():\n    return 7\n"


@pytest.mark.parametrize(
    "text",
    [
        f"Call ```f()``` like this:\n```python\n{PROGRAM}```",
        '```python\ndef f():\n    """So:\n\n    ```\n    f()\n    ```\n    """\n    return 7\n```',
        f"1. So:\n   ```python\n   {PROGRAM.replace(chr(10), chr(10) + '   ').rstrip()}\n   ```\n",
        f"~~~python\n{PROGRAM}~~~\n",
        f"```python\n{PROGRAM}```\nIt prints:\n```\n7\n```",
        f"```python\n{PROGRAM}```\nUsage:\n```python\nprint(f())\n```",
    ],
)
def test_which_block_is_the_program(text):
    assert REWARDS["code"](text, {**CODE, "tests": [{"input": [], "output": 7}]}, True) == 1.0


def test_an_answer_of_code_that_is_no_object_is_named():
    assert "as text: give it as an object" in unusable("code", '{"entry_point": "f", "tests": []}')
    assert "f" in unusable("code", {**CODE, "tests": [{"input": [], "output": 1}], "setup": "x"})


CHEATS = {
    "equal to all": "class E:\n    def __eq__(self, other): return True\n    __ne__ = __lt__ = __le__ = __eq__\n"
    "def {name}(*args): return E()",
    "a list equal to all": "class E(list):\n    def __eq__(self, other): return True\ndef {name}(*args): return E()",
    "the caller's frame": "import sys\ndef {name}(*args):\n    frame = sys._getframe()\n    while frame:\n"
    "        for key, value in frame.f_locals.items():\n            if 'exp' in key: return value\n"
    "        frame = frame.f_back\n",
    "no answer": "def {name}(*args): raise SystemExit(0)",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_evalplus_is_not_fooled(cheat):
    config = EvalPlusBenchmark(
        kind="evalplus", name="own", path=DEMO / "code.heldout.evalplus.jsonl", completion="extract", limit=1
    )
    task = open_benchmark(config)
    (problem,) = task.problems
    name = problem.reference["entry_point"]
    program = f"```python\n{CHEATS[cheat].replace('{name}', name)}\n```"
    (grade,) = task.grade([(problem, said(program))])
    assert grade.verdict == "fail", grade
