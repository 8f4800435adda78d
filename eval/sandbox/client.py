"""Runs untrusted Python functions on test inputs and compares what they return.

Each process that asks starts one server (`eval.sandbox.worker`) of its own at its first job. Every job is a
process of its own, forked from one that holds nothing of any job (`eval.sandbox.zygote`); that takes a few
milliseconds. What a program cannot do (`eval.sandbox.confinement`), whoever runs it, root included:

- see or influence the comparison: expected values stay here, the child only returns outputs;
- see, change or swallow anything of another job: its program, inputs, outputs or replies;
- start processes or programs, signal other processes or look into them, open sockets;
- read files other than the interpreter's and its packages' (Linux 5.13 and newer), write any;
- run longer than the time limit, use more than 1 GiB, write much more than is expected, run more than 64
  threads (they are counted 20 times a second), leave anything behind.

What it can do: use the cores until its time is over, and learn names, sizes and times of files that this user
may see. Needs Linux on x86_64 or aarch64 with seccomp filters and `/proc`; elsewhere `SandboxError` says so.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.processes import pipes
from eval.sandbox.values import as_json, encode, same_encoded, shown, shown_value

MAX_JOBS_AT_A_TIME = 16
LEAST_OUTPUT_BYTES = 1 << 20
"""What a program may write at least; three times what is expected where that is more."""
SILENCE_SECONDS = 30.0
"""A server that has said nothing for so long beyond the longest of its jobs is taken for lost."""

Status = Literal["passed", "failed", "error", "timeout", "crashed"]


class SandboxError(RuntimeError):
    """The sandbox itself does not work here; says nothing about the program."""


@dataclass(frozen=True)
class SandboxResult:
    """What became of one program."""

    status: Status
    """`passed`: every output was right; `failed`: some output was wrong or some call raised; `error`: the
    program could not be loaded or lacks the function; `timeout`: the time was over; `crashed`: its
    process ended early (exit, signal, memory), wrote too much or started too many threads."""
    passed: int
    """Tests with the right output."""
    total: int
    detail: str


def run_tests(
    program: str, entry_point: str, tests: Sequence[dict[str, Any]], timeout_s: float = 2.0
) -> SandboxResult:
    """Call the program's function `entry_point` on every test's arguments and compare the outputs.

    program: Python source. It runs as a module that is not `__main__`, without stdin, its prints dropped.
    tests: each `{"input": [argument, ...], "output": expected}`, of values that JSON can hold, which tells no
        tuple from a list and has no keys but text: outputs are compared so. At least one.
    timeout_s: wall-clock seconds for the whole program, loading included.

    Thread-safe. Raises SandboxError if no server can be started, ValueError for tests that are not as
    described.
    """
    _check_tests(tests)
    inputs = [list(test["input"]) for test in tests]
    expected = len(json.dumps([encode(test["output"]) for test in tests]))
    limit = max(LEAST_OUTPUT_BYTES, 3 * expected)
    return _judge(run_program(program, entry_point, inputs, timeout_s, output_bytes=limit), tests)


@dataclass(frozen=True)
class Outputs:
    """What a program did with its inputs. None of it can be trusted: the program may have written it."""

    messages: tuple[dict[str, Any], ...]
    """One a call: `output`, as `eval.sandbox.values.encode` makes it, with the call's `seconds`; or `raised`;
    or `error` of loading."""
    end: str
    """`exit`, `timeout`, `flood`, `threads` or `signal N`."""


def run_program(
    program: str, entry_point: str, inputs: Sequence[list[Any]], timeout_s: float, **limits: Any
) -> Outputs:
    """Call the program's function on every list of arguments, in a process of its own.

    limits: `test_timeouts` (seconds of each call), `memory_bytes`, `output_bytes`, where the usual ones are
        not right.

    Thread-safe. A server that is lost, or says nothing for too long, is replaced, and the job is run again.
    Raises SandboxError if no server can be started or two are lost.
    """
    encoded = [encode(arguments) for arguments in inputs]
    job = json.dumps({"program": program, "entry_point": entry_point, "inputs": encoded}).encode()
    settings = {"bytes": len(job), "tests": len(encoded), "timeout": timeout_s, **limits}
    for _attempt in range(2):
        with contextlib.suppress(_ServerLost):
            reply = _server().run(settings, job)
            lines = reply["lines"].split("\n", len(inputs))[:-1]  # no more than can be answers
            return Outputs(tuple(map(_parse, lines)), reply["end"])
    raise SandboxError("the sandbox server ended twice during one job; is the machine out of memory?")


def _check_tests(tests: Sequence[dict[str, Any]]) -> None:
    if not tests:
        raise ValueError("a program without tests cannot be judged")
    for i, test in enumerate(tests):
        is_test = isinstance(test, dict) and "output" in test and isinstance(test.get("input"), list | tuple)
        if not is_test:
            raise ValueError(f'test {i} is not {{"input": [argument, ...], "output": value}}: {test!r:.100}')


# --------------------------------------------------------------------------------------- comparison

ENDS = {"exit": "exited", "flood": "wrote too much", "threads": "too many threads"}
"""What became of a program that did not answer every test."""


def _judge(outputs: Outputs, tests: Sequence[dict[str, Any]]) -> SandboxResult:
    """Compare the outputs with the expected ones."""
    passed, answered, first_problem = 0, 0, ""
    for message, test in zip(outputs.messages, tests, strict=False):
        if "error" in message:
            return SandboxResult("error", 0, len(tests), shown(message["error"]))
        problem = _problem(message, test)
        if problem and not first_problem:
            first_problem = f"test {answered}: {problem}"
        passed += not problem
        answered += 1
    total = len(tests)
    if outputs.end == "timeout":
        return SandboxResult("timeout", passed, total, f"time was over in test {answered}")
    if outputs.end != "exit" or answered < total:
        reason = ENDS.get(outputs.end, outputs.end)
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
        return shown(message["raised"])
    expected = as_json(encode(test["output"]))
    if "output" not in message or not same_encoded(as_json(message["output"]), expected):
        return f"wrong output {shown_value(message.get('output'))}"
    return ""


# -------------------------------------------------------------------------------------------- server


_START = (
    "import sys; root = sys.argv.pop(1); sys.path.insert(0, root); "
    "from eval.sandbox.worker import main; sys.path.remove(root); main()"
)
"""Isolated from the environment and the working folder, so this project's path is given by hand."""


class _ServerLost(Exception):
    """The server ended before it answered."""


class _Server:
    """Client side of one server process; shared by the threads of this process."""

    def __init__(self) -> None:
        slots = min(MAX_JOBS_AT_A_TIME, len(os.sched_getaffinity(0)))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(Path(__file__).resolve().parents[2]), str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "OMP_NUM_THREADS": "1",
                "PYTHONHASHSEED": "0",
                "MALLOC_ARENA_MAX": "1",
            },
            start_new_session=True,
        )
        self._ids = itertools.count()
        self._pending: dict[int, tuple[Future[dict[str, Any]], float]] = {}
        """By the job's number, also its time limit."""
        self._heard = time.monotonic()
        self._pending_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._stdin, self._stdout = pipes(self._process)
        self._check_ready(self._stdout.readline())
        threading.Thread(target=self._read_replies, name="sandbox replies", daemon=True).start()

    def run(self, settings: dict[str, Any], job: bytes) -> dict[str, Any]:
        """The reply to a job. Raises _ServerLost."""
        future: Future[dict[str, Any]] = Future()
        with self._pending_lock:
            if not self.alive:
                raise _ServerLost
            number = next(self._ids)
            if not self._pending:
                self._heard = time.monotonic()
            self._pending[number] = future, settings["timeout"]
        line = json.dumps({"id": number, **settings}).encode() + b"\n"
        with self._write_lock, contextlib.suppress(OSError):  # a broken pipe fails the future as well
            self._stdin.write(line + job)
            self._stdin.flush()
        while True:
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=SILENCE_SECONDS / 3)
            if time.monotonic() - self._heard > self._longest_job() + SILENCE_SECONDS:
                self._process.kill()  # the end of its output fails all that wait

    def _longest_job(self) -> float:
        with self._pending_lock:
            return max((seconds for _, seconds in self._pending.values()), default=0.0)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _check_ready(self, line: bytes) -> None:
        try:
            hello = json.loads(line)
        except ValueError:
            hello = {"refused": "the server did not start"}
        self.layers: tuple[str, ...] = tuple(hello.get("layers", ()))
        if "ready" not in hello:
            self._process.kill()
            self._process.wait()
            raise SandboxError(
                f"untrusted programs cannot be run safely here: {hello.get('refused')}; "
                "the sandbox needs Linux with seccomp filters on x86_64 or aarch64"
            )

    def _read_replies(self) -> None:
        for line in self._stdout:
            if not line.endswith(b"\n"):  # it ended while it wrote
                break
            reply = json.loads(line)
            self._heard = time.monotonic()
            with self._pending_lock:
                future, _ = self._pending.pop(reply["id"])
            future.set_result(reply)
        with self._pending_lock:
            self._process.wait()
            lost, self._pending = list(self._pending.values()), {}
        for future, _ in lost:
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


def layers() -> tuple[str, ...]:
    """What confines programs here: `seccomp`, and `landlock` and `namespaces` where the kernel allows them.

    Raises SandboxError where programs cannot be run.
    """
    return _server().layers


def _forget_after_fork() -> None:
    """A forked process starts its own server, and must not hold the pipes of its parent's."""
    global _current, _start_lock
    _start_lock = threading.Lock()
    if _current is not None:
        null = os.open(os.devnull, os.O_RDWR)
        for pipe in pipes(_current._process):
            os.dup2(null, pipe.fileno())
        os.close(null)
        _abandoned.append(_current)
        _current = None


_abandoned: list[_Server] = []
"""Servers of a parent process, kept so that nothing of them is finalised here."""

os.register_at_fork(after_in_child=_forget_after_fork)
