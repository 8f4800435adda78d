"""The process that judges programs of EvalPlus's problems, one at a time; imports neither torch nor vLLM.

Arguments: dataset ("humaneval" or "mbpp"), pickled {id: problem}. In: {"id", "solution",
"min_time_limit"}. Out: {"status": "pass" | "fail" | "timeout" | "broken", "detail", "seconds"}; "broken"
says that the problem's own canonical solution does not run.

Inputs, time limits, tolerances and exceptions for single problems are EvalPlus's. The program runs in the
sandbox (`eval.sandbox`) and returns plain values; what it should return never enters its process.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmarks.evalplus_oracle import Oracle
from eval.sandbox.client import ENDS, Outputs, SandboxError, run_program
from eval.sandbox.values import encode

GROUND_TRUTH_SECONDS = 120.0
TIME_FACTOR = 4.0
"""A test may take so many times as long as the canonical solution."""
PART_SECONDS = 60.0
"""EvalPlus's limit for all base inputs together, and for all plus inputs."""
SPARE_SECONDS = 10.0
"""Beside each test's limit, for the program's start and for the description of long outputs, which is not
the call's time. A program that lies about its time gains so much and no more."""
MEMORY_BYTES = 4 << 30
LEAST_OUTPUT_BYTES, MOST_OUTPUT_BYTES, TIMES_EXPECTED = 4 << 20, 64 << 20, 10
"""What a program may write: so many times what is expected. Reading 64 MiB of tiny values takes long."""
VALUES_A_RUN = 300_000
"""Expected numbers or characters that one run of the program returns, or those of one test."""


class Checker:
    """Checks solutions, with what the canonical solutions return, computed once each."""

    def __init__(self, dataset: str, problems: dict[str, dict[str, Any]]) -> None:
        self._dataset = dataset
        self._problems = problems
        self._truth: dict[str, dict[str, Any]] = {}

    def check(self, id: str, solution: str, min_time_limit: float) -> dict[str, Any]:
        """Base inputs, then plus inputs; both must pass."""
        try:
            truth = self._truth.get(id) or self._compute_truth(id)
        except BaseException as error:
            detail = f"the canonical solution of {id} does not run: {type(error).__name__}: {error}"
            return {"status": "broken", "detail": detail[:200], "seconds": 0.0}
        started = time.monotonic()
        for part in ("base", "plus"):
            status, detail = self._check_part(id, part, solution, truth, min_time_limit)
            if status != "pass":
                break
        return {"status": status, "detail": detail, "seconds": time.monotonic() - started}

    def _check_part(
        self, id: str, part: str, solution: str, truth: dict[str, Any], min_time_limit: float
    ) -> tuple[str, str]:
        problem = self._problems[id]
        inputs = problem[f"{part}_input"]
        if not inputs:
            return "pass", ""
        limits = [max(min_time_limit, TIME_FACTOR * seconds) for seconds in truth[f"{part}_time"]]
        tests = list(zip(inputs, truth[part], limits, strict=True))
        oracle = Oracle(self._dataset, problem["entry_point"], problem["atol"])
        left = min(PART_SECONDS, sum(limits)) + 1
        for first, chunk in _chunks(tests):
            expected = sum(truth[f"{part}_bytes"][first : first + len(chunk)])
            outputs = run_program(
                solution,
                problem["entry_point"],
                [list(arguments) for arguments, _, _ in chunk],
                left + PART_SECONDS,
                test_timeouts=[limit + SPARE_SECONDS for _, _, limit in chunk],
                memory_bytes=MEMORY_BYTES,
                output_bytes=min(MOST_OUTPUT_BYTES, max(LEAST_OUTPUT_BYTES, TIMES_EXPECTED * expected)),
            )
            left -= sum(map(_seconds, outputs.messages))
            status, detail = _verdict(outputs, oracle, chunk, f"{part} test", first)
            if status != "pass":
                return status, detail
            if left < 0:
                return "timeout", f"{part} tests did not end"
        return "pass", ""

    def _compute_truth(self, id: str) -> dict[str, Any]:
        from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
        from evalplus.eval.utils import swallow_io, time_limit
        from evalplus.gen.util import trusted_exec

        problem = self._problems[id]
        only_not_none = self._dataset == "mbpp" and problem["entry_point"] in MBPP_OUTPUT_NOT_NONE_TASKS
        truth: dict[str, Any] = {}
        with time_limit(GROUND_TRUTH_SECONDS), swallow_io():
            for part in ("base", "plus"):
                truth[part], truth[f"{part}_time"] = trusted_exec(
                    problem["prompt"] + problem["canonical_solution"],
                    problem[f"{part}_input"],
                    problem["entry_point"],
                    record_time=True,
                    output_not_none=only_not_none,
                )
                truth[f"{part}_bytes"] = [len(json.dumps(encode(output))) for output in truth[part]]
        self._truth[id] = truth
        return truth


Test = tuple[Any, Any, float]
"""Arguments, expected output, and limit in seconds."""


def _chunks(tests: list[Test]) -> Iterator[tuple[int, list[Test]]]:
    """The tests with the place of the first one, in as few runs as their outputs allow."""
    chunk: list[Test] = []
    first = values = 0
    for place, test in enumerate(tests):
        values += len(test[1]) if isinstance(test[1], list | tuple | str | dict | set) else 1
        if chunk and values > VALUES_A_RUN:
            yield first, chunk
            first, values, chunk = place, 0, []
        chunk.append(test)
    yield first, chunk


def _verdict(outputs: Outputs, oracle: Oracle, tests: list[Test], what: str, first: int) -> tuple[str, str]:
    """Status and detail, by the first test that is not right; the tests are counted from `first`."""
    for number, (message, (arguments, expected, limit)) in enumerate(
        zip(outputs.messages, tests, strict=False), first
    ):
        if "error" in message:
            return "fail", "no test was reached"
        if _seconds(message) > limit:
            return "timeout", f"{what} {number} did not end"
        if "output" not in message or not oracle.accepts(message["output"], expected, arguments):
            return "fail", f"{what} {number} failed"
    reached = first + min(len(outputs.messages), len(tests) - 1)
    if outputs.end == "timeout":
        return "timeout", f"{what} {reached} did not end"
    if len(outputs.messages) < len(tests) or outputs.end != "exit":
        return "fail", f"{ENDS.get(outputs.end, outputs.end)} in {what} {reached}"
    return "pass", ""


def _seconds(message: dict[str, Any]) -> float:
    """The call's time as the program's process told it."""
    seconds = message.get("seconds")
    return seconds if isinstance(seconds, float) and 0 <= seconds < float("inf") else 0.0


def main() -> None:
    """The process: answers until stdin ends."""
    dataset, path = sys.argv[1:]
    checker = Checker(dataset, pickle.loads(Path(path).read_bytes()))
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what canonical solutions print is no reply
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = checker.check(question["id"], question["solution"], question["min_time_limit"])
        except SandboxError as error:
            answer = {"status": "lost", "detail": str(error), "seconds": 0.0}
        os.write(replies, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
