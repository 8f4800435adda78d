"""A helper process that answers one question at a time, JSON line by JSON line, and can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.processes import pipes


class WorkerLost(RuntimeError):
    """The process ended before it answered."""


class WorkerTimeout(RuntimeError):
    """No answer in time; the process was killed."""


class Worker:
    """Starts `python -m module arguments` at the first question, and again after it was killed or lost.

    `environment` is laid over this process's environment, less the variables in `removed`.

    Thread-safe, one question at a time. A forked process gets a helper of its own. The module must answer
    every line of stdin with one line on stdout and end with its stdin.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        removed: Sequence[str] = (),
    ) -> None:
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        single = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        inherited = {name: value for name, value in os.environ.items() if name not in removed}
        self._environment = {**inherited, **single, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        _all.add(self)

    def ask(self, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer. Raises WorkerTimeout or WorkerLost; the next question starts a fresh process."""
        with self._lock:
            self._stop_if_it_said_more()
            process = self._running()
            try:
                stdin, _ = pipes(process)
                stdin.write(json.dumps(question).encode() + b"\n")
                stdin.flush()
                line = self._read_line(process, timeout_s)
            except OSError:
                line = b""
            except WorkerTimeout:
                self._stop()
                raise
            if not line.endswith(b"\n"):
                self._stop()
                raise WorkerLost(f"{self._command[3]} ended with code {process.returncode}")
            if (reply := _reply(line)) is None:
                self._stop()  # what else it writes would be taken for the next answer
                raise WorkerLost(f"{self._command[3]} wrote what is no answer: {line[:60]!r}")
            return reply

    def start(self) -> None:
        """Start the process before its first question."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process; it starts again with the next question."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the client, whose end ends this process
            )
            self._finalizer = weakref.finalize(self, _kill, self._process)
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        received = bytearray()
        poll = select.poll()
        _, stdout = pipes(process)
        poll.register(stdout, select.POLLIN | select.POLLHUP)
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise WorkerTimeout(f"no answer within {timeout_s:g} s")
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                break
            received += chunk
        return bytes(received)

    def _stop_if_it_said_more(self) -> None:
        """What came after the last answer would be taken for the next one."""
        if self._process is not None:
            _, stdout = pipes(self._process)
            if select.select([stdout], [], [], 0)[0]:
                self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._finalizer.detach()
            _kill(self._process)
            self._process = None

    def _forget(self) -> None:
        """In a forked process: let go of the parent's helper without ending it."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._finalizer.detach()
            null = os.open(os.devnull, os.O_RDWR)
            for pipe in pipes(self._process):
                os.dup2(null, pipe.fileno())
            os.close(null)
            self._process.returncode = 0  # it is not this process's child
            self._process = None


def _reply(line: bytes) -> dict[str, Any] | None:
    """The one answer that a helper wrote, None where it is none, or more than one."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return reply if isinstance(reply, dict) else None


class WorkerPool:
    """Helpers of one module, as many as the machine has cores, started when they are needed.

    Thread-safe: so many questions are answered at the same time, others wait.
    """

    def __init__(self, module: str, size: int | None = None, **settings: Any) -> None:
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for _ in range(size or len(os.sched_getaffinity(0))):
            self._free.put(Worker(module, **settings))
        _pools.add(self)

    def ask(self, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """As `Worker.ask`; waiting for a free helper does not count."""
        worker = self._free.get()
        try:
            return worker.ask(question, timeout_s)
        finally:
            self._free.put(worker)

    def _forget(self) -> None:
        """In a forked process: a lock of the queue may be held by a thread that is not here."""
        workers = list(self._free.queue)
        self._free = queue.LifoQueue()
        for worker in workers:
            self._free.put(worker)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started, such as the programs that a user's function runs."""
    if process.returncode is None:  # not yet waited for, so its id is its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in pipes(process):
        with contextlib.suppress(OSError):
            pipe.close()


_all: weakref.WeakSet[Worker] = weakref.WeakSet()
_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for helper in [*_all, *_pools]:
        helper._forget()


os.register_at_fork(after_in_child=_forget_after_fork)
