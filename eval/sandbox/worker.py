"""The process in which `eval.sandbox.client` runs untrusted programs: it hands jobs out and collects outputs.

Started by `eval.sandbox.client`; imports the standard library and its neighbours only. It reads
jobs from stdin and writes results to stdout, and keeps at most `argv[1]` jobs running:

    in   {"id", "bytes", "tests", "timeout"} on a line, and perhaps "test_timeouts": [seconds of each test],
         "memory_bytes", "output_bytes"; then as many bytes: the job, which this process does not look into:
         {"program", "entry_point", "inputs": [encoded arguments, one list a test]}
    out  {"id", "lines": what the job wrote, "end": "exit" | "timeout" | "flood" | "threads" | "signal N"}

Each job runs in a child of the zygote (`eval.sandbox.zygote`), which holds nothing of any other job. The
child writes one line a test. What a program returns is all it can influence: the expected values never enter
any of these processes, so they can be neither read nor compared with here, and lines forged by the program
are worth nothing without the right values in them.

The child is confined by `eval.sandbox.confinement` and by resource limits; see `eval.sandbox.client` for what
that does and does not cover.
"""

import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from typing import Any

from eval.sandbox import landlock, namespaces
from eval.sandbox.confinement import Confinement, hide_memory
from eval.sandbox.zygote import NoProcess, Zygote

MEMORY_BYTES = 1 << 30
OUTPUT_BYTES = 1 << 20
MAX_THREADS = 64
LOOK_SECONDS = 0.05
"""How often the threads of the jobs are counted: no limit of the kernel on them binds root."""
EXIT_SECONDS = 0.05
"""What a job that has closed its pipe may take to end."""
FORK_SECONDS = 10.0
"""How long no process can be forked for a job before this is given up: another job's threads or memory, which
are counted a moment later, may be in the way."""
COMMON_IMPORTS = (
    "bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "operator", "random", "re",
    "string", "typing",
)  # fmt: skip

# ---------------------------------------------------------------------------------------------- jobs


class Running:
    """A job's process and what it has written so far."""

    def __init__(self, settings: dict[str, Any], job: bytes, zygote: Zygote) -> None:
        self.id = settings["id"]
        self.zygote = zygote
        self.pipe, write = os.pipe()
        os.set_blocking(self.pipe, False)
        with _memory_file(job) as file:
            memory_bytes = settings.get("memory_bytes", MEMORY_BYTES)
            try:
                self.pid = zygote.fork(file.fileno(), write, settings["timeout"], memory_bytes)
            except NoProcess:
                os.close(self.pipe)
                raise
            finally:
                os.close(write)
        self.end_of_time = time.monotonic() + settings["timeout"]
        self.test_timeouts: list[float] = settings.get("test_timeouts", [])
        self.most_bytes = settings.get("output_bytes", OUTPUT_BYTES)
        self.most_lines = settings["tests"] + 1
        self.chunks: list[bytes] = []
        self.size = 0
        self.tests_done = 0
        self._next_test()

    def read(self) -> bool:
        """Take what is there; False at the end of the output or beyond its limit.

        It never waits: a program can open its own end in `/proc` for reading, and take back what was there.
        """
        try:
            chunk = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return True
        self.chunks.append(chunk)
        self.size += len(chunk)
        if lines := chunk.count(b"\n"):
            self.tests_done += lines
            self._next_test()
        return bool(chunk) and not self.is_flood

    @property
    def is_flood(self) -> bool:
        """Whether it wrote more than answers can be."""
        return self.size > self.most_bytes or self.tests_done > self.most_lines

    def _next_test(self) -> None:
        """The deadline of the test that runs now, and never later than the whole job's."""
        own = self.test_timeouts[self.tests_done : self.tests_done + 1]
        self.deadline = min([self.end_of_time, *(time.monotonic() + seconds for seconds in own)])

    def threads(self) -> int:
        """How many it has; 0 where they cannot be counted."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/task"))
        except OSError:
            return 0

    def finish(self, end: str | None) -> dict[str, Any]:
        """End the process and describe the job."""
        if end is None and self.is_flood:
            end = "flood"
        # A job that closed its pipe but goes on is killed; one that is exiting keeps its own status.
        status = self.zygote.end(self.pid, EXIT_SECONDS if end is None else 0.0)
        os.close(self.pipe)
        if end is None:
            end = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "exit"
        return {"id": self.id, "lines": b"".join(self.chunks).decode("utf-8", "replace"), "end": end}


def _memory_file(content: bytes) -> Any:
    """A file without a name that holds the content, open at its beginning."""
    file = os.fdopen(os.memfd_create("job"), "w+b", buffering=0)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    file.seek(0)
    return file


class Server:
    """Takes jobs from stdin until it ends, runs up to `slots` at a time."""

    def __init__(self, slots: int, zygote: Zygote) -> None:
        self.slots = slots
        self.zygote = zygote
        self.waiting: list[tuple[dict[str, Any], bytes]] = []
        self.running: dict[int, Running] = {}
        self.buffer = bytearray()
        self.parent = os.getppid()
        self.next_look = 0.0
        self.refused_since: float | None = None

    def serve(self) -> None:
        """Until stdin or its parent ends."""
        poll = select.poll()
        poll.register(0, select.POLLIN | select.POLLHUP)
        while os.getppid() == self.parent:
            self.start_waiting(poll)
            for descriptor, _event in poll.poll(self.patience() * 1000):
                if descriptor == 0:
                    if not self.take_jobs():
                        return
                elif not self.running[descriptor].read():
                    self.end(poll, descriptor, None)
            now = time.monotonic()
            self.end_late(poll, now)
            if now >= self.next_look:
                self.next_look = now + LOOK_SECONDS
                for descriptor in [d for d, job in self.running.items() if job.threads() > MAX_THREADS]:
                    self.end(poll, descriptor, "threads")

    def end_late(self, poll: select.poll, now: float) -> None:
        """End the jobs whose time is over, but for those that had ended by then: another may have kept us."""
        for descriptor, job in list(self.running.items()):
            if job.deadline > now:
                continue
            if not (job.read() and job.read()):  # a full pipe, and its end
                self.end(poll, descriptor, None)
            elif job.deadline <= now:
                self.end(poll, descriptor, "timeout")

    def check(self) -> None:
        """Run a first job. Raises OSError if a right program does not pass: jobs cannot be judged then."""
        job = {"program": "f = int", "entry_point": "f", "inputs": [["list", []]]}
        running = Running({"id": 0, "tests": 1, "timeout": 10}, json.dumps(job).encode(), self.zygote)
        while running.read():
            select.select([running.pipe], [], [])
        threads, result = running.threads(), running.finish(None)
        if result["end"] != "exit" or json.loads(result["lines"] or "{}").get("output") != ["int", "0"]:
            raise OSError(f"a confined process could not run: {result}")
        if threads == 0:
            raise OSError("the threads of a program cannot be counted: /proc does not show its process")

    def patience(self) -> float:
        """Seconds until the next deadline, at most one, and not long while jobs run."""
        now = time.monotonic()
        longest = LOOK_SECONDS if self.running or self.waiting else 1.0
        return max(0.0, min([longest, *(job.deadline - now for job in self.running.values())]))

    def take_jobs(self) -> bool:
        data = os.read(0, 1 << 20)
        self.buffer += data
        while (end_of_line := self.buffer.find(b"\n")) >= 0:
            settings = json.loads(self.buffer[:end_of_line])
            end = end_of_line + 1 + settings["bytes"]
            if len(self.buffer) < end:
                break
            self.waiting.append((settings, bytes(self.buffer[end_of_line + 1 : end])))
            del self.buffer[:end]
        return bool(data)

    def start_waiting(self, poll: select.poll) -> None:
        while self.waiting and len(self.running) < self.slots:
            try:
                running = Running(*self.waiting[0], self.zygote)
            except NoProcess:
                now = time.monotonic()
                self.refused_since = self.refused_since or now
                if now - self.refused_since > FORK_SECONDS:
                    raise
                return
            self.refused_since = None
            del self.waiting[0]
            self.running[running.pipe] = running
            poll.register(running.pipe, select.POLLIN | select.POLLHUP)

    def end(self, poll: select.poll, descriptor: int, end: str | None) -> None:
        poll.unregister(descriptor)
        reply(self.running.pop(descriptor).finish(end))


def reply(message: dict[str, Any]) -> None:
    """One line on stdout."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    """The process: serves until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the client, whose end ends this process
    layers = ["seccomp", *(["landlock"] * (landlock.version() > 0)), *(["namespaces"] * namespaces.enter())]
    for name in COMMON_IMPORTS:  # once, before the forks
        importlib.import_module(name)
    slots, sys.argv = int(sys.argv[1]), [""]
    try:
        hide_memory()
        folder = tempfile.mkdtemp(prefix="protege-sandbox-")
        os.chdir(folder)  # the jobs' working folder: empty, and they cannot create files in it
        os.rmdir(folder)  # nor does it stay behind
        server = Server(slots, Zygote(Confinement()))  # before the first job is read
        server.check()
    except OSError as failure:
        reply({"refused": str(failure)})
        sys.exit(1)
    reply({"ready": True, "layers": layers})
    server.serve()
