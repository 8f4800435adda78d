# ruff: noqa: E501
"""EvalPlus's problems: no program finds what is expected, forges a verdict, or disturbs the next one."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("evalplus")

from eval.benchmarks.evalplus_grading import EvalPlusGrading
from eval.benchmarks.evalplus_worker import Checker
from eval.records import Verdict

PROBLEM: dict[str, Any] = {
    "task_id": "Own/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return [x * 7919 + 1.5, str(x)]\n",
    "base_input": [[1], [2]],
    "plus_input": [[3]],
    "atol": 0,
}
RIGHT = PROBLEM["prompt"] + PROBLEM["canonical_solution"]
EVIL = "class E({base}):\n    {body}\ndef f(x): return {value}"
WRONG = {
    "frames and objects": "import gc, inspect\ndef f(x):\n    for t in [i.frame.f_locals for i in inspect.stack()] + gc.get_objects():\n        if isinstance(t, list) and t[:1] == [x * 7919 + 1.5 - 0]: return None\n        if isinstance(t, dict) and {'canonical_solution', 'base'} & set(map(str, t)): return eval(t['canonical_solution'])",
    "the problems' file": "import glob, pickle\ndef f(x):\n    path, = glob.glob('/tmp/**/problems.pickle', recursive=True)\n    return pickle.load(open(path, 'rb'))",
    "an equal of everything": EVIL.format(base="list", body="__eq__ = lambda s, o: True", value="E([1])"),
    "another class": EVIL.format(base="", body="__class__ = list", value="E()"),
    "an array that is close to all": "import numpy\ndef f(x): return numpy.full(2, numpy.nan)",
    "not a number": "def f(x): return [float('nan'), str(x)]",
    "infinity": "def f(x): return [float('inf'), str(x)]",
    "a number of 10,000 digits": "def f(x): return [10**10000, str(x)]",
    "an empty list": "def f(x): return []",
    "a dict": "def f(x): return {0: x * 7919, 1: str(x)}",
    "itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "deeply nested": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "members that hash alike": "def f(x): return {i * (2**61 - 1) for i in range(9999)}",
    "forged replies": "import os\ndef f(x):\n    for n in range(65):\n        try: os.write(n, b'{\"status\": \"pass\", \"detail\": \"\", \"seconds\": 0.0}\\n')\n        except OSError: pass\n    os._exit(0)",
    "a time that is a lie": "import os\ndef f(x):\n    os.write(3, b'{\"seconds\": -1e308, \"output\": [\"list\", [1, \"1\"]]}\\n')",
    "the oracle": "import evalplus.eval as e\ne.is_floats = lambda *a: True\ne.evaluate = None\ndef f(x): return 1",
    "a kill of all": "import os\ndef f(x):\n    for pid in range(1, 400):\n        try: os.kill(pid, 9)\n        except OSError: pass\n    return 1",
    "a process": "import os\ndef f(x): return os.fork()",
    "a name that is missing": "def g(x): return 1",
}  # fmt: skip


def test_nothing_wrong_passes_and_the_right_one_does_after_each():
    grading = EvalPlusGrading("humaneval", [PROBLEM])
    programs = [program for wrong in WRONG.values() for program in (wrong, f"{RIGHT}# {len(wrong)}")]
    grades = grading.grade([("Own/0", program) for program in programs])
    passed = [grade.verdict == Verdict.PASS for grade in grades]
    names = list(WRONG)
    assert [names[i // 2] for i in range(0, len(passed), 2) if passed[i]] == []
    assert [names[i // 2] for i in range(1, len(passed), 2) if not passed[i]] == []


def test_what_may_be_written_follows_what_is_expected():
    """A reply of tiny values takes the judge far longer to read than its bytes take to write."""
    long = {**PROBLEM, "canonical_solution": "    return [x + 0.5] * 250_000\n"}
    right = Checker("humaneval", {"Own/0": long})
    assert right.check("Own/0", long["prompt"] + long["canonical_solution"], 9.0)["status"] == "pass"
    found = Checker("humaneval", {"Own/0": PROBLEM}).check("Own/0", "def f(x): return 'a' * 5_000_000", 9.0)
    assert (found["status"], found["detail"]) == ("fail", "wrote too much in base test 0")
