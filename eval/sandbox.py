"""Runs untrusted Python functions on test inputs and compares what they return.

Each process that asks starts one server (`eval.sandbox_worker`) of its own at its first job; the server
forks a child a job, a few milliseconds each. What a program cannot do:

- see or influence the comparison: expected values stay here, the child only returns outputs;
- start processes or programs, signal other processes, open sockets, create, write or remove files
  (seccomp filter; no privileges needed);
- run longer than the time limit, use more than 1 GiB, write more than 1 MiB of output, leave
  anything behind (limits, killed at the end of its job).

What it can do: read files that this user may read (it has no channel to send them to but its output), and
use a core until its time is over. That suits programs of one's own models, not hostile people.
Needs Linux on x86_64 or aarch64 with seccomp filters; elsewhere `SandboxError` says so.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.sandbox_worker import decode, encode

RELATIVE_TOLERANCE = 1e-7
ABSOLUTE_TOLERANCE = 1e-6
MAX_JOBS_AT_A_TIME = 16

Status = Literal["passed", "failed", "error", "timeout", "crashed"]


class SandboxError(RuntimeError):
    """The sandbox itself does not work here; says nothing about the program."""


@dataclass(frozen=True)
class SandboxResult:
    """What became of one program."""

    status: Status
    """`passed`: every output was right; `failed`: some output was wrong or some call raised; `error`: the
    program could not be loaded or lacks the function; `timeout`: the time was over; `crashed`: its
    process ended early (exit, signal, memory) or wrote too much."""
    passed: int
    """Tests with the right output."""
    total: int
    detail: str


def run_tests(
    program: str, entry_point: str, tests: Sequence[dict[str, Any]], timeout_s: float = 2.0
) -> SandboxResult:
    """Call the program's function `entry_point` on every test's arguments and compare the outputs.

    program: Python source. It runs as a module that is not `__main__`, without stdin, its prints dropped.
    tests: each `{"input": [argument, ...], "output": expected}`, of builtin types. At least one.
    timeout_s: wall-clock seconds for the whole program, loading included.

    Thread-safe. Raises SandboxError if no server can be started, ValueError for tests that are not as
    described.
    """
    inputs = _encoded_inputs(tests)
    job = {"program": program, "entry_point": entry_point, "inputs": inputs, "timeout": timeout_s}
    for _attempt in range(2):
        with contextlib.suppress(_ServerLost):
            return _judge(_server().run(job), tests)
    raise SandboxError("the sandbox server ended twice during one job; is the machine out of memory?")


def _encoded_inputs(tests: Sequence[dict[str, Any]]) -> list[Any]:
    if not tests:
        raise ValueError("a program without tests cannot be judged")
    for i, test in enumerate(tests):
        is_test = isinstance(test, dict) and "output" in test and isinstance(test.get("input"), list | tuple)
        if not is_test:
            raise ValueError(f'test {i} is not {{"input": [argument, ...], "output": value}}: {test!r:.100}')
    return [encode(list(test["input"])) for test in tests]


# --------------------------------------------------------------------------------------- comparison


def _judge(reply: dict[str, Any], tests: Sequence[dict[str, Any]]) -> SandboxResult:
    """Compare the outputs in a server's reply with the expected ones."""
    passed, answered, first_problem = 0, 0, ""
    for line, test in zip(reply["lines"].split("\n")[:-1], tests, strict=False):
        message = _parse(line)
        if "error" in message:
            return SandboxResult("error", 0, len(tests), str(message["error"]))
        problem = _problem(message, test)
        if problem and not first_problem:
            first_problem = f"test {answered}: {problem}"
        passed += not problem
        answered += 1
    total = len(tests)
    if reply["end"] == "timeout":
        return SandboxResult("timeout", passed, total, f"time was over in test {answered}")
    if reply["end"] != "exit" or answered < total:
        reason = {"exit": "exited", "flood": "wrote too much"}.get(reply["end"], reply["end"])
        return SandboxResult("crashed", passed, total, f"{reason} in test {answered}")
    if first_problem:
        return SandboxResult("failed", passed, total, first_problem)
    return SandboxResult("passed", passed, total, "")


def _parse(line: str) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _problem(message: dict[str, Any], test: dict[str, Any]) -> str:
    """What is wrong with a test's output; empty if nothing is."""
    if "raised" in message:
        return str(message["raised"])
    try:
        output = decode(message["output"])
        right = same(output, test["output"])
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError):
        return "output is of a type that cannot be compared"
    return "" if right else f"wrong output {output!r:.80}"


def same(output: Any, expected: Any) -> bool:
    """Equal values of the same kind, also inside of containers.

    True is not 1 and a tuple is not a list; 2 equals 2.0; a float is expected up to 1e-6 absolute or
    1e-7 relative (EvalPlus's tolerances).
    """
    kind = _kind(expected)
    if _kind(output) != kind:
        return False
    if kind == "number":
        return _same_number(output, expected)
    if kind in ("list", "tuple"):
        return len(output) == len(expected) and all(map(same, output, expected))
    if kind == "dict":
        outputs = {_key(key): value for key, value in output.items()}
        return len(output) == len(expected) and all(
            _key(key) in outputs and same(outputs[_key(key)], value) for key, value in expected.items()
        )
    if kind == "set":
        return {_key(item) for item in output} == {_key(item) for item in expected}
    return output == expected


def _same_number(output: complex, expected: complex) -> bool:
    if isinstance(output, complex) or isinstance(expected, complex):
        return output == expected
    if isinstance(expected, float):
        try:
            return math.isclose(output, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        except OverflowError:  # an integer beyond all floats
            return False
    return output == expected


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    if isinstance(value, int | float | complex):
        return "number"
    return "set" if isinstance(value, set | frozenset) else type(value).__name__


def _key(value: Any) -> Any:
    """Hashable stand-in for a dict key or set member, so that True and 1 differ."""
    if isinstance(value, tuple):
        return ("tuple", tuple(map(_key, value)))
    if isinstance(value, frozenset):
        return ("set", frozenset(map(_key, value)))
    return (_kind(value), value)


# -------------------------------------------------------------------------------------------- server


_START = (
    "import sys; root = sys.argv.pop(1); sys.path.insert(0, root); "
    "from eval.sandbox_worker import main; sys.path.remove(root); main()"
)
"""Isolated from the environment and the working folder, so this project's path is given by hand."""


class _ServerLost(Exception):
    """The server ended before it answered."""


class _Server:
    """Client side of one server process; shared by the threads of this process."""

    def __init__(self) -> None:
        slots = min(MAX_JOBS_AT_A_TIME, len(os.sched_getaffinity(0)))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(Path(__file__).resolve().parents[1]), str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        self._ids = itertools.count()
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._pending_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._check_ready(self._process.stdout.readline())
        threading.Thread(target=self._read_replies, name="sandbox replies", daemon=True).start()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The reply to a job. Raises _ServerLost."""
        future: Future[dict[str, Any]] = Future()
        with self._pending_lock:
            if not self.alive:
                raise _ServerLost
            number = next(self._ids)
            self._pending[number] = future
        line = json.dumps({"id": number, **job}).encode() + b"\n"
        with self._write_lock, contextlib.suppress(OSError):  # a broken pipe fails the future as well
            self._process.stdin.write(line)
            self._process.stdin.flush()
        return future.result()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _check_ready(self, line: bytes) -> None:
        try:
            hello = json.loads(line)
        except ValueError:
            hello = {"refused": "the server did not start"}
        if "ready" not in hello:
            self._process.kill()
            self._process.wait()
            raise SandboxError(
                f"untrusted programs cannot be run safely here: {hello.get('refused')}; "
                "the sandbox needs Linux with seccomp filters on x86_64 or aarch64"
            )

    def _read_replies(self) -> None:
        for line in self._process.stdout:
            reply = json.loads(line)
            with self._pending_lock:
                future = self._pending.pop(reply["id"])
            future.set_result(reply)
        with self._pending_lock:
            self._process.wait()
            lost, self._pending = list(self._pending.values()), {}
        for future in lost:
            future.set_exception(_ServerLost())


_current: _Server | None = None
_start_lock = threading.Lock()


def _server() -> _Server:
    """This process's server, started at the first call and again after its end."""
    global _current
    with _start_lock:
        if _current is None or not _current.alive:
            _current = _Server()
        return _current


def _forget_after_fork() -> None:
    """A forked process starts its own server, and must not hold the pipes of its parent's."""
    global _current, _start_lock
    _start_lock = threading.Lock()
    if _current is not None:
        null = os.open(os.devnull, os.O_RDWR)
        for pipe in (_current._process.stdin, _current._process.stdout):
            os.dup2(null, pipe.fileno())
        os.close(null)
        _abandoned.append(_current)
        _current = None


_abandoned: list[_Server] = []
"""Servers of a parent process, kept so that nothing of them is finalised here."""

os.register_at_fork(after_in_child=_forget_after_fork)
