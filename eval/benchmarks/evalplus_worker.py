"""The process that runs EvalPlus's checker on one program at a time; imports neither torch nor vLLM.

Arguments: dataset ("humaneval" or "mbpp"), pickled {id: problem}. In: {"id", "solution",
"min_time_limit"}. Out: {"status": "pass" | "fail" | "timeout" | "broken", "detail", "seconds"}; "broken"
says that the problem's own canonical solution does not run.

EvalPlus forks a process for every check and guards it, but is no sandbox; those processes are confined by
`eval.confinement` as well.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eval.confinement import Confinement

GROUND_TRUTH_SECONDS = 120.0
TIME_FACTOR = 4.0
"""A test may take so many times as long as the canonical solution."""


class Checker:
    """EvalPlus's check of a solution, with what the canonical solutions return, computed once each."""

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
        from evalplus.eval import untrusted_check

        problem = self._problems[id]
        if not problem[f"{part}_input"]:
            return "pass", ""
        status, details = untrusted_check(
            self._dataset,
            solution,
            problem[f"{part}_input"],
            problem["entry_point"],
            expected=truth[part],
            atol=problem["atol"],
            ref_time=truth[f"{part}_time"],
            fast_check=True,
            min_time_limit=min_time_limit,
            gt_time_limit_factor=TIME_FACTOR,
        )
        if status == "pass":
            return "pass", ""
        if status == "timeout":
            return status, f"{part} tests did not end"
        if not len(details):
            return status, "no test was reached"
        return status, f"{part} test {len(details) - 1} failed"

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
        self._truth[id] = truth
        return truth


def confine_children(replies: int) -> None:
    """From now on every forked process is confined and cannot write to the descriptor `replies`."""
    confinement = Confinement(allowed=("setrlimit", "prlimit64"))  # EvalPlus sets limits in the child

    def in_child() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2, replies):
            os.dup2(null, descriptor)
        os.close(null)
        confinement.die_with_parent()
        confinement.apply()

    os.register_at_fork(after_in_child=in_child)


def main() -> None:
    """The process: answers until stdin ends."""
    import evalplus.eval  # noqa: F401  (before the forks)

    tempfile.gettempdir()  # its first call tries to write, which the children cannot

    dataset, path = sys.argv[1:]
    checker = Checker(dataset, pickle.loads(Path(path).read_bytes()))
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what canonical solutions print is no reply
    confine_children(replies)
    for line in sys.stdin:
        question = json.loads(line)
        answer = checker.check(question["id"], question["solution"], question["min_time_limit"])
        os.write(replies, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
