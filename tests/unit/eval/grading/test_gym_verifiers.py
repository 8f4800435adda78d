# ruff: noqa: E501, RUF001
"""No verifier of reasoning-gym runs an answer as Python, and right answers stay right."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from configs.blocks.gym import GymTask, generate
from eval.grading.answer_graders import score
from eval.grading.answer_worker import in_child
from eval.grading.gym_verifiers import (
    is_infinite,
    literal,
    refuse_unless_arithmetic,
    refuse_unless_expression,
)
from eval.records import Completion
from eval.sandbox.confinement import Confinement
from tests.helpers.paths import ROOT

EXPRESSIONS = [
    "-9*x**8/10 + 10*x**2/9 + C",
    "sqrt(x) + log(X, 2)*exp(-1.5*y)",
    "2*(-10*x - 10)**(3/2)/3",
    "theta1 + C",
]
NO_EXPRESSIONS = [
    "open", "eval(x)", "__import__", "x.subs(x, 1)", "(1).real", "1..real", "'1'", '"x"', "x[0]", "lambda x: x",
    "x if x else y", "1 or 2", "S(1)", "sympify(x)", "Integral(2*x, x)", "x; y", "x = 1", "x # y", "{x}", "x\n+1",
    "f'{x}'", "x_", "_", "!x", "4!", "0.[3]", "x:y", "@x", "\\x", "x" * 20_000, "print(x)", "max(1, 2)", "１", "µ",
]  # fmt: skip
NO_ARITHMETIC = [
    "24 # 1 2",
    "x",
    "2**3",
    "7//2",
    "1.5",
    "4!",
    "(1).real",
    "1\n2",
    "1,2",
    "~1",
    "1_0",
    "１",
    "pi",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_are_read(text):
    refuse_unless_expression(text)


@pytest.mark.parametrize("text", NO_EXPRESSIONS)
def test_what_is_more_than_an_expression_is_refused(text):
    with pytest.raises(ValueError, match=r"no (expression|name|text)"):
        refuse_unless_expression(text)


@pytest.mark.parametrize("text", NO_ARITHMETIC)
def test_what_is_more_than_arithmetic_is_refused(text):
    refuse_unless_arithmetic("(12 + 7)*3 - 8/2")
    with pytest.raises(ValueError, match="no arithmetic"):
        refuse_unless_arithmetic(text)


@pytest.mark.parametrize(
    "text", ["open('x')", "[x for x in ()]", "f'{1}'", "1 if 1 else 2", "(lambda: 1)()", "a.b"]
)
def test_only_literals_are_evaluated(text):
    assert literal("[['Q', '_'], (1, -2.5), {'a': None}]") == [["Q", "_"], (1, -2.5), {"a": None}]
    with pytest.raises((ValueError, SyntaxError)):
        literal(text)


SCRIPT = r"""
import builtins, json, os, re, sys
import reasoning_gym
TASKS = ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "polynomial_multiplication",
    "simple_integration", "puzzle24", "countdown", "bitwise_arithmetic", "number_sorting", "codeio"]
opened = {name: reasoning_gym.create_dataset(name, size=6, seed=3) for name in TASKS}
entries = {name: [task[i] for i in range(6)] for name, task in opened.items()}
scores = lambda: {n: [opened[n].score_answer(e["answer"], e) for e in entries[n]] for n in TASKS}
before = scores()
for name in list(sys.modules):  # the package as the helper imports it
    if name.partition(".")[0] == "reasoning_gym":
        del sys.modules[name]
from eval.grading.gym_verifiers import guard
guard()
import reasoning_gym
opened = {name: reasoning_gym.create_dataset(name, size=6, seed=3) for name in TASKS}
builtins.ran = ran = []
RUN = ["ran.append(1)", "[ran.append(1)]", "[[ran.append(1)]]", "ran.append(1) or 24", "(lambda: ran.append(1))()",
    "f'{ran.append(1)}'", "[ran.append(c) for c in (1,)]", "S('ran.append(1)')", "sympify('ran.append(1)')",
    "x + ran.append(1)", "eval('ran.append(1)')", "24 if ran.append(1) else 24", "__import__('builtins').ran.append(1)"]
tried = {n: [opened[n].score_answer(text, entries[n][0]) for text in RUN] for n in TASKS}
unguarded, root = [], os.path.dirname(reasoning_gym.__file__)
for folder, _, files in os.walk(root):
    for file in files:
        path = os.path.join(folder, file)
        source = open(path).read() if file.endswith(".py") else ""
        name = "reasoning_gym." + os.path.relpath(path, root)[:-3].replace("/", ".")
        if re.search(r"(?<![.\w])(eval|exec)\(|parse_expr\(|pickle|lambdify|import_module|builtins|subprocess", source):
            module = sys.modules.get(name)
            if module is None or "eval" not in vars(module):
                unguarded.append(name)
print(json.dumps({"before": before, "after": scores(), "ran": ran, "tried": tried, "unguarded": sorted(unguarded)}))
"""


def test_the_package_evaluates_no_answer_and_judges_as_before():
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["after"] == found["before"] and all(min(scores) == 1 for scores in found["after"].values())
    assert found["ran"] == []
    assert max(max(scores) for scores in found["tried"].values()) <= 0.05
    assert found["unguarded"] == [  # the first reads answers by `int`, the others only make problems
        "reasoning_gym.arithmetic.bitwise_arithmetic",
        "reasoning_gym.arithmetic.gsm_symbolic.generators_00_49",
        "reasoning_gym.arithmetic.gsm_symbolic.generators_50_99",
    ]


@pytest.mark.parametrize(
    "text",
    ["nan", "-NaN", "nan+nanj", "3 + nani", "(inf, 2)", "Infinity", "1e999", "-1e-999999999", "1e9_999", "1.5E400",
     "9" * 400, "1/1e400", "1e" + "9" * 5000, "[[1, nan]]"],
)  # fmt: skip
def test_what_is_no_finite_number_is_told(text):
    assert is_infinite(text)


@pytest.mark.parametrize(
    "text",
    ["0", "-1.5e200", "1e-99", "3 + 4i", "1/3", "[[1, 0], [0, 1]]", "banana", "CAN,NAN", "infinite", "x**2", "1e5000x",
     "", "1 " * 5000, "information", "0." + "3" * 200],
)  # fmt: skip
def test_finite_numbers_and_words_are_left_to_the_verifier(text):
    assert not is_infinite(text)


def test_no_number_is_no_answer():
    """The package's own verifier takes NaN for every complex number, and for hours reads a long power of ten."""
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.txt)")
    for task, texts in {"complex_arithmetic": ["nan", "nan+nanj"], "coin_flip": ["1e999999999"]}.items():
        (row,) = generate(GymTask(task=task, size=1))
        settings = {"kind": "reasoning_gym", "task": task, "answer": "last_line"}
        given = [score(settings, Completion(text, 1, True), row["answer"]) for text in texts]
        assert [(found.value, found.detail) for found in given] == [(0.0, "answered " + t) for t in texts]


def test_a_verifier_that_computes_for_too_long_is_ended_alone(monkeypatch):
    monkeypatch.setattr("eval.grading.answer_worker.GYM_CPU_SECONDS", 1)
    found = in_child(lambda: {"value": float(9**9**9 > 0)}, Confinement())
    assert found == {"error": "the verifier's process ended without a verdict"}
    assert in_child(lambda: {"value": 1.0}, Confinement())["value"] == 1.0
