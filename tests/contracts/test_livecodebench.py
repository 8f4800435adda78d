"""LiveCodeBench's problems in their published form: functions and stdin, hidden tests, hostile answers."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib

import pytest

from common.errors import ConfigError
from configs.blocks.benchmarks import StandardBenchmark
from eval.benchmarks import open_benchmark
from eval.benchmarks.contest_program import lines_of
from eval.benchmarks.standard import livecodebench_v6 as lcb
from eval.records import Completion
from eval.sandbox.client import SandboxError, SandboxResult
from tests.helpers.benchmark_files import MADE_UP, SUMS, TWICE, contest_tests, encoded
from tests.helpers.tiny_model import write_jsonl

FUNCTION, STDIN = MADE_UP["livecodebench_v6"]


@pytest.fixture
def opened(tmp_path):
    def opened(*rows):
        path = write_jsonl(tmp_path / "test6.jsonl", rows or (FUNCTION, STDIN))
        return open_benchmark(StandardBenchmark(kind="standard", name="livecodebench_v6", path=path))

    return opened


def judged(task, place, *programs):
    answers = [(task.problems[place], Completion(f"```python\n{p}\n```", 9, True)) for p in programs]
    return task.grade(answers)


def test_prompts_hold_the_starter_code_or_speak_of_standard_input(opened):
    function, stdin = (problem.messages[0]["content"] for problem in opened().problems)
    assert "def twice(self, xs: List[int], k: int)" in function and "standard input" not in function
    assert "standard input" in stdin and "```" not in stdin


def test_both_kinds_by_their_public_and_private_tests(opened):
    task = opened()
    grades = judged(
        task, 0, TWICE, TWICE.replace("return", "return (6, 6) #"), TWICE.replace("twice", "once")
    )
    assert [grade.verdict for grade in grades] == ["pass", "fail", "fail"]
    assert grades[1].detail.startswith("failed in test 1 of 2")  # the private one
    sums = [
        SUMS,
        "while True:\n  try: print(sum(float(x) for x in input().split()))\n  except EOFError: break",
    ]
    wrong = ["print(3); print(3)", "print('3\\n3')\nexit()"]
    guarded = "def main():\n    exec(SOURCE)\nif __name__ == '__main__':\n    main()\n    raise SystemExit(0)"
    guarded = f"SOURCE = {SUMS!r}\n{guarded}"
    grades = judged(task, 1, *sums, guarded, *wrong)
    assert [grade.verdict for grade in grades] == ["pass"] * 3 + ["fail"] * 2, grades


def test_lines_are_compared_as_text_or_as_numbers():
    assert lines_of("1.0 2\n\n") == lines_of(" 1 2.00 ") == [["1", "2"]]
    assert lines_of("1 a") == ["1 a"] != lines_of("1.0 a")
    assert lines_of("nan") == ["nan"] and lines_of("0.1") != lines_of("0.10001")
    assert lines_of("1\n2") != lines_of("1 2")


@pytest.mark.parametrize(
    "reading",
    [
        "open(0)", "open('/dev/stdin')", "(line.decode() for line in open(0, 'rb'))", "sys.stdin",
        "(line.decode() for line in sys.stdin.buffer)", "StringIO(sys.stdin.read())", "asyncio.run(read())",
    ],
)  # fmt: skip
def test_what_the_official_checker_has_ready_is_there(opened, reading):
    program = (
        "import asyncio\nasync def read(): return sys.stdin.readlines()\n"
        f"for line in {reading}: print(fsum(map(float, split(' +', line.strip()))) + mean([0]))"
    )
    (grade,) = judged(opened(), 1, program)
    assert grade.verdict == "pass", grade


def test_every_digit_of_a_long_number_counts():
    one, other = "123456789012345678901234567890123", "123456789012345678901234567890124"
    assert lines_of(one) != lines_of(other) and lines_of(one) == lines_of(one + ".0")
    assert lines_of("1e2") == lines_of("100") and lines_of("-0") == lines_of("0.00")
    assert lines_of("1e999999999") == [["1E+999999999"]]


def test_its_own_check_accepts_every_problem(opened):
    task = opened()
    pairs = [(problem, Completion(task.canonical(problem), 9, True)) for problem in task.problems]
    assert [grade.verdict for grade in task.grade(pairs)] == ["pass"] * len(pairs)


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("while True: pass", "timeout"),
        ("x = [0] * 10**10", "MemoryError"),
        ("import socket; socket.create_connection(('127.0.0.1', 1))", "PermissionError"),
        ("open('test6.jsonl', 'w').write('3')", "failed"),
        ("import os; os._exit(0)", "crashed"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_hostile_and_broken_programs_fail(opened, monkeypatch, program, detail):
    monkeypatch.setattr(lcb, "TEST_SECONDS", 1.0)
    (grade,) = judged(opened(), 1, program)
    assert grade.verdict == "fail" and detail in grade.detail, grade


def test_a_slow_machine_is_tried_once_more_and_a_broken_sandbox_is_unscored(opened, monkeypatch):
    slow, passed = SandboxResult("timeout", 0, 1, "late"), SandboxResult("passed", 1, 1, "")
    for replies, verdict in (([slow, passed, passed], "pass"), ([slow, slow], "fail")):
        left = list(replies)
        monkeypatch.setattr(lcb, "run_tests", lambda *_, left=left: left.pop(0))
        assert judged(opened(), 1, SUMS)[0].verdict == verdict and not left

    def broken(*_):
        raise SandboxError("no seccomp here")

    monkeypatch.setattr(lcb, "run_tests", broken)
    (grade,) = judged(opened(), 1, SUMS)
    assert (grade.verdict, grade.detail) == ("unscored", "no seccomp here")


def hidden(pickled: bytes) -> str:
    return base64.b64encode(zlib.compress(pickled)).decode()


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch /tmp/protege-was-run",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"private_test_cases": hidden(pickle.dumps(Hostile()))}, "something else than a text"),
        ({"private_test_cases": hidden(pickle.dumps(["[]"]))}, "something else than a text"),
        ({"private_test_cases": hidden(b"\x80\x02K\x01r\xff\xff\xff\x7f.")}, "something else than a text"),
        ({"private_test_cases": hidden(b"")}, "its tests cannot be read"),
        ({"private_test_cases": hidden(b".")}, "a pickle of 0 texts"),
        ({"private_test_cases": hidden(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f")}, "cannot be read"),
        ({"private_test_cases": hidden(pickle.dumps("[" * 5000))}, "its text: not JSON"),
        ({"private_test_cases": hidden(pickle.dumps("[]"))[:20]}, "its tests cannot be read"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"x" * 999)[:-4]).decode()}, "cut off"),
        ({"private_test_cases": "[" * 5000}, "its text: not JSON"),
        ({"private_test_cases": [1]}, "'private_test_cases' must be a text"),
        ({"metadata": "{}" + "[" * 5000}, "its tests cannot be read"),
        ({"metadata": 3}, "its tests cannot be read"),
        ({"question_content": 3}, "'question_content' must be a text, got 3"),
        ({"private_test_cases": "not base64"}, "problem '2': its tests cannot be read"),
        ({"private_test_cases": "[]", "public_test_cases": "[]"}, "no test"),
        ({"public_test_cases": contest_tests(("1", "1"), kind="functional")}, "test types"),
        (
            {"public_test_cases": contest_tests(("1", "1"), kind="functional"), "private_test_cases": "[]"},
            "None",
        ),
        ({"question_content": None}, "'question_content'"),
        ({"question_id": "1"}, "ids must be unique"),
    ],
)
def test_problems_that_cannot_be_judged_are_refused(opened, change, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        opened(FUNCTION, {**STDIN, **change})
    assert "livecodebench_v6" in str(refusal.value) and not os.path.exists("/tmp/protege-was-run")


def test_what_would_grow_without_end_is_refused(opened, monkeypatch):
    monkeypatch.setattr(lcb, "LARGEST_FILE", 10_000)
    with pytest.raises(ConfigError, match="more than 10000 bytes"):
        opened(FUNCTION, {**STDIN, "private_test_cases": hidden(pickle.dumps("[" + " " * 20_000 + "]"))})


def test_private_tests_may_be_plain_json(opened):
    plain = opened(FUNCTION, {**STDIN, "private_test_cases": contest_tests(("0.5 0.5\n", "1\n"))})
    assert plain.digest == opened().digest
    other = opened(FUNCTION, {**STDIN, "private_test_cases": encoded(contest_tests(("2\n", "2\n")))})
    assert other.digest != plain.digest and json.dumps(other.source)
