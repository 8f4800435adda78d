"""Benchmark files for the tests: local copies of the published ones, and made-up ones in their formats."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from pathlib import Path

import pytest

from tests.helpers.paths import SHARED_DATA

FILES = {
    "aime24": "aime24.jsonl",
    "aime25": "aime25.jsonl",
    "hmmt25_feb": "hmmt25_feb.jsonl",
    "humaneval_plus": "HumanEvalPlus.jsonl.gz",
    "mbpp_plus": "MbppPlus.jsonl.gz",
}


def contest_tests(*pairs: tuple[str, str], kind: str = "stdin") -> str:
    """Tests in LiveCodeBench's own form."""
    return json.dumps([{"input": given, "output": output, "testtype": kind} for given, output in pairs])


def encoded(tests: str) -> str:
    """As LiveCodeBench hides its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(tests))).decode()


TWICE = "class Solution:\n    def twice(self, xs, k):\n        return sum(xs) + k, pow(sum(xs) + k, 1)\n"
SUMS = (
    "import sys\nfor line in sys.stdin.buffer.read().splitlines():\n"
    "    print(sum(map(float, line.split())))\n"
)

MADE_UP = {
    "gsm8k": [
        {"question": "Ann has 400 pens and buys 600.", "answer": "400+600=<<400+600=1000>>1000\n#### 1,000"},
        {"question": "Bob owes 3.", "answer": "0-3=<<0-3=-3>>-3\n#### -3"},
    ],
    "hmmt25_nov": [
        {"problem_idx": 1, "answer": "\\frac{1}{2}", "problem_type": ["Algebra"], "problem": "Halve $1$."},
        {"problem_idx": 2, "answer": "7", "problem_type": ["Algebra"], "problem": "Compute $3+4$."},
    ],
    "livecodebench_v6": [
        {
            "question_id": "1",
            "question_content": "Return the sum of xs plus k, twice.",
            "difficulty": "easy",
            "starter_code": "class Solution:\n    def twice(self, xs: List[int], k: int) -> Tuple[int, int]:",
            "metadata": json.dumps({"func_name": "twice"}),
            "public_test_cases": contest_tests(("[1, 2]\n3", "[6, 6]"), kind="functional"),
            "private_test_cases": encoded(contest_tests(("[]\n0", "[0, 0]"), kind="functional")),
        },
        {
            "question_id": "2",
            "question_content": "Print the sum of each line.",
            "starter_code": "",
            "public_test_cases": contest_tests(("1 2\n3\n", "3\n3\n")),
            "metadata": "{}",
            "private_test_cases": encoded(contest_tests(("0.5 0.5\n", "1\n"))),
        },
    ],
    "math500": [
        {
            "problem": f"Compute the point $({x}, {x}+{x})$.",
            "solution": "It is \\boxed{...}.",
            "answer": f"({x},{2 * x})",
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/algebra/{x}.json",
        }
        for x in (3, 4)
    ],
}
"""Problems in the format of benchmarks whose own files are not at hand."""


def standard_file(name: str) -> Path:
    """The local copy of a published benchmark; the test is skipped where there is none."""
    path = SHARED_DATA / FILES[name]
    if not path.is_file():
        pytest.skip(f"{path} is absent: no local copy of {name}")
    return path


def rows_in(path: Path) -> list[dict]:
    """The rows of a JSONL file, compressed or not."""
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt") as file:
        return [json.loads(line) for line in file]
