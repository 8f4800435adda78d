"""Grades programs by EvalPlus's checker in a few helper processes."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from eval.grading.workers import Worker, WorkerLost, WorkerTimeout
from eval.records import Grade, Verdict

WORKERS = 2
MIN_TIME_LIMIT_S = 2.0
"""Least time for one test."""
ALONE_TIME_LIMIT_S = 4.0
"""Least time for one test when a program that was too slow runs again with nothing beside it."""
REPLY_LIMIT_S = 400.0
"""For one program with the canonical solution's run: EvalPlus ends each of its two checks within 63 s."""

LOST = {"status": "lost", "seconds": 0.0}


class EvalPlusGrading:
    """Grades solutions of a set of problems; the helpers start at the first grading and then stay.

    Each problem belongs to one helper, which computes its ground truth once. A program that ran into
    a time limit, or whose helper was lost, runs once more alone; if it is too slow again, the canonical
    solution decides under the same limits: if that passes the program is slow (FAIL), else the machine
    is (UNSCORED).
    """

    def __init__(self, dataset: str, problems: Sequence[dict[str, Any]]) -> None:
        self._dataset = dataset
        self._problems = {problem["task_id"]: problem for problem in problems}
        self._workers: list[Worker] = []

    def grade(self, answers: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grades of (task id, solution) pairs, in order."""
        if not self._workers:
            self._prepare_workers()
        owners = {id: i % len(self._workers) for i, id in enumerate(self._problems)}
        shares: list[list[int]] = [[] for _ in self._workers]
        for i, (id, _solution) in enumerate(answers):
            shares[owners[id]].append(i)
        replies: dict[int, dict[str, Any]] = {}

        def work(worker: Worker, share: list[int]) -> None:
            for i in share:
                replies[i] = _ask(worker, *answers[i], MIN_TIME_LIMIT_S)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            list(threads.map(work, self._workers, shares))
        grades = []
        controls: dict[str, bool] = {}
        for i, (id, solution) in enumerate(answers):
            reply, worker = replies[i], self._workers[owners[id]]
            if _is_doubtful(reply, MIN_TIME_LIMIT_S):
                reply = _ask(worker, id, solution, ALONE_TIME_LIMIT_S)
                if _is_doubtful(reply, ALONE_TIME_LIMIT_S):
                    if id not in controls:
                        controls[id] = self._canonical_passes(worker, id)
                    grades.append(_grade_slow(reply, controls[id]))
                    continue
            grades.append(_grade(reply))
        return grades

    def _canonical_passes(self, worker: Worker, id: str) -> bool:
        problem = self._problems[id]
        solution = problem["prompt"] + problem["canonical_solution"]
        return _ask(worker, id, solution, ALONE_TIME_LIMIT_S)["status"] == "pass"

    def _prepare_workers(self) -> None:
        """Hand the problems over in a file; temporary files and EvalPlus's cache stay in one folder."""
        self._folder = tempfile.TemporaryDirectory(prefix="protege-evalplus-")
        path = Path(self._folder.name) / "problems.pickle"
        path.write_bytes(pickle.dumps({id: self._with_inputs(p) for id, p in self._problems.items()}))
        environment = {"TMPDIR": self._folder.name, "XDG_CACHE_HOME": self._folder.name}
        arguments = [self._dataset, str(path)]
        n = min(WORKERS, len(self._problems), max(1, len(os.sched_getaffinity(0))))
        removed = ("EVALPLUS_TIMEOUT_PER_TASK",)  # EvalPlus fails on it
        self._workers = [
            Worker("eval.benchmarks.evalplus_worker", arguments, environment, removed) for _ in range(n)
        ]

    def _with_inputs(self, problem: dict[str, Any]) -> dict[str, Any]:
        """The problem with inputs as the functions take them; JSON has no tuples, sets or complex numbers."""
        if self._dataset != "mbpp":
            return problem
        from evalplus.data.mbpp import mbpp_deserialize_inputs

        id = problem["task_id"]
        return problem | {
            key: mbpp_deserialize_inputs(id, problem[key]) for key in ("base_input", "plus_input")
        }


def _ask(worker: Worker, id: str, solution: str, min_time_limit: float) -> dict[str, Any]:
    question = {"id": id, "solution": solution, "min_time_limit": min_time_limit}
    try:
        return worker.ask(question, REPLY_LIMIT_S)
    except (WorkerLost, WorkerTimeout) as error:
        return {**LOST, "detail": str(error)}


def _is_doubtful(reply: dict[str, Any], limit: float) -> bool:
    """Ended by a time limit, by its process's death, or not at all."""
    return reply["status"] in ("timeout", "lost") or (reply["status"] == "fail" and reply["seconds"] >= limit)


def _grade(reply: dict[str, Any]) -> Grade:
    verdict = {"pass": Verdict.PASS, "fail": Verdict.FAIL}.get(reply["status"], Verdict.UNSCORED)
    return Grade(verdict, reply["detail"])


def _grade_slow(reply: dict[str, Any], canonical_passes: bool) -> Grade:
    if reply["status"] == "lost":
        return Grade(Verdict.UNSCORED, f"the grader was lost twice: {reply['detail']}")
    if not canonical_passes:
        return Grade(Verdict.UNSCORED, "timed out, and so does the canonical solution here")
    return Grade(Verdict.FAIL, f"timeout: {reply['detail']}")
