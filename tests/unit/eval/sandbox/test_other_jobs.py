"""A job knows nothing of the others, and none of its processes outlives its client."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import pytest

from eval.sandbox import client, worker
from eval.sandbox.client import layers, run_program, run_tests
from eval.sandbox.values import decode
from eval.sandbox.worker import Running, Server
from eval.sandbox.zygote import NoProcess, Zygote
from tests.helpers.paths import ROOT
from tests.helpers.processes import children_that_run

RIGHT = "def f(xs): return sum(xs)"
SUM = [{"input": [[1, 2, 3]], "output": 6}]
KEY = "protege-secret-"

SEARCH = r"""
import ctypes, gc, os, re, sys
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
PAGE, MOST = 4096, 1 << 16

def readable(read, write, page):
    # bytes of a page, or None: the kernel looks, so that nothing that is not there is touched
    if page < PAGE or libc.write(write, ctypes.c_void_p(page), PAGE) != PAGE:
        return None
    return os.read(read, PAGE)

def pages():
    things = [*gc.get_objects(), *sys.modules.values(), bytearray(100), bytearray(1 << 20), libc, b"x", 7.5]
    things += [v for t in list(things) if type(t) is dict for v in list(t.values())]
    starts = {id(t) // PAGE * PAGE for t in things}
    starts |= {libc.sbrk(0) // PAGE * PAGE - PAGE, ctypes.addressof(ctypes.c_int()) // PAGE * PAGE}
    for name in ("environ", "stdout"):
        starts.add(ctypes.cast(getattr(libc, name), ctypes.c_void_p).value // PAGE * PAGE)
    read, write = os.pipe()
    seen = set()
    for start in sorted(starts):
        for step in (PAGE, -PAGE):
            page = start if step > 0 else start - PAGE
            while page not in seen and len(seen) < MOST and (data := readable(read, write, page)) is not None:
                seen.add(page)
                yield data
                page += step

def f(secret):
    pattern = re.compile(b"tege-secret-([0-9]{12})")
    found, frame = set(), sys._getframe()
    while frame:
        found |= set(re.findall("tege-secret-([0-9]{12})", repr(frame.f_locals)))
        frame = frame.f_back
    n = 0
    for data in pages():
        n += 1
        found |= {m.decode() for m in pattern.findall(data)}
    return [n, sorted(found)]
"""


def secret(number: int) -> str:
    return f"{KEY}{number:012}"


def test_a_program_finds_nothing_of_other_jobs_in_its_memory():
    """One job has ended, one has written an output and goes on, and a third searches for what they held."""
    hold = f"S = {secret(1)!r}\ndef f(seconds, x):\n    import time\n    time.sleep(seconds)\n    return x, S"
    run_program(hold, "f", [[0, secret(2)]], 20)
    beside = threading.Thread(target=run_program, args=(hold, "f", [[0, secret(3)], [1.5, ""]], 20))
    beside.start()
    time.sleep(0.2)
    searched = run_program(SEARCH, "f", [[secret(4)]], 20)
    beside.join()
    pages, found = decode(searched.messages[0]["output"])
    assert found == [f"{4:012}"], f"of {pages} pages"
    assert pages > 1000


def test_the_process_that_is_forked_is_given_no_bytes_of_a_job(monkeypatch):
    """What goes to the zygote: numbers, and descriptors that it passes on unread."""
    sent = []

    class Recorded(Zygote):
        def __init__(self):
            pass

        def _ask(self, request, descriptors=None):
            sent.append((request, descriptors))
            return 1

    Recorded().fork(8, 9, 2.5, 1 << 30)
    Recorded().end(77, 0.05)
    assert [len(request) for request, _ in sent] == [17, 17]
    assert [descriptors for _, descriptors in sent] == [[8, 9], None]


def server() -> psutil.Process:
    assert run_tests(RIGHT, "f", SUM, 10).status == "passed"
    (pid,) = children_that_run("eval.sandbox.worker")
    return psutil.Process(pid)


def soon(find: Callable[[], list[psutil.Process]], at_least: int = 1) -> list[psutil.Process]:
    """What is found as soon as it is so many."""
    until = time.monotonic() + 20
    while len(found := find()) < at_least and time.monotonic() < until:
        time.sleep(0.02)
    assert len(found) >= at_least
    return found


def zygote() -> psutil.Process:
    return server().children(recursive=True)[-1]


def test_a_lost_zygote_is_replaced_and_the_job_runs_again():
    lost = zygote()
    outcome = []
    program = "import time\ndef f(xs):\n    time.sleep(1)\n    return sum(xs)"
    thread = threading.Thread(target=lambda: outcome.append(run_tests(program, "f", SUM, 10)))
    thread.start()
    (job,) = soon(lost.children)
    lost.kill()
    thread.join(30)
    assert outcome[0].status == "passed"
    assert zygote().pid != lost.pid and not job.is_running()


def test_a_stopped_zygote_is_replaced(monkeypatch):
    stopped = zygote()
    monkeypatch.setattr(client, "SILENCE_SECONDS", 1.0)
    stopped.suspend()
    assert run_tests(RIGHT, "f", SUM, 0.5).status == "passed"
    stopped.wait(10)


CLIENT = """
import sys, threading, time
from eval.sandbox.client import run_tests
print(run_tests("f = int", "f", [{"input": [], "output": 0}], 20).status, flush=True)
run_tests("import time\\ndef f(): time.sleep(600)", "f", [{"input": [], "output": 0}], 600)
"""


@pytest.mark.parametrize("inherits", [False, True])
def test_nothing_outlives_a_client_that_is_killed(inherits):
    """While a job runs; also where another process still holds the pipe to the server."""
    script = CLIENT if not inherits else CLIENT.replace('run_tests("import', HELD + 'run_tests("import')
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout is not None and process.stdout.readline() == "passed\n"
    below = partial(psutil.Process(process.pid).children, recursive=True)
    parts = (
        3 + ("namespaces" in layers()) + inherits
    )  # server and what waits for it, zygote, job; and the holder
    everything = soon(below, parts)
    holders = [p for p in everything if "sleep" in p.cmdline()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(set(everything) - set(holders), timeout=20)
    for holder in holders:
        holder.kill()
    assert not left and len(holders) == inherits


HELD = """
import subprocess
from eval.sandbox import client
stdin = client._current._stdin.fileno()
subprocess.Popen(["sleep", "60"], pass_fds=[stdin])
"""


def run_script(*lines: str, stdin: str = "") -> str:
    command = [sys.executable, "-c", "; ".join(["import os, sys", *lines])]
    ended = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=30)
    return ended.stdout


def test_without_a_proc_of_their_own_no_namespaces_are_entered():
    """As in containers that hide parts of /proc: threads could not be counted there."""
    said = run_script(
        "from eval.sandbox import namespaces as n",
        "n._mount_proc = lambda: False",
        "print(n.enter(), os.getpid() > 1, len(os.listdir(f'/proc/{os.getpid()}/task')))",
    )
    assert said == "False True 1\n"


def test_a_server_that_cannot_count_threads_refuses():
    said = run_script(
        "from eval.sandbox import worker as w",
        "w.Running.threads = lambda job: 0",
        "sys.argv.append('1')",
        "w.main()",
    )
    assert "refused" in said and "threads of a program cannot be counted" in said


LOOKS_AT_MEMORY = """
import os
def f():
    zygote = os.getppid()
    server = int(open(f"/proc/{zygote}/stat").read().rsplit(")", 1)[1].split()[1])
    found = []
    for pid in (zygote, server):
        for name in ("mem", "environ"):
            try: found.append(open(f"/proc/{pid}/{name}", "rb"))
            except PermissionError: pass
    return [server != zygote, len(found)]
"""


def test_the_memory_of_server_and_zygote_is_closed_without_landlock_and_namespaces():
    """As on kernels before 5.13, where files can be read."""
    job = json.dumps({"program": LOOKS_AT_MEMORY, "entry_point": "f", "inputs": [["list", []]]})
    settings = json.dumps({"id": 1, "bytes": len(job), "tests": 1, "timeout": 10})
    said = run_script(
        "from eval.sandbox import landlock, namespaces, worker",
        "landlock.version = lambda: 0",
        "namespaces.enter = lambda: False",
        "serve = worker.Server.take_jobs",
        "worker.Server.take_jobs = lambda server: serve(server) or bool(server.running or server.waiting)",
        "sys.argv.append('1')",
        "worker.main()",
        stdin=f"{settings}\n{job}",
    )
    ready, reply = map(json.loads, said.splitlines())
    assert ready["layers"] == ["seccomp"] and decode(json.loads(reply["lines"])["output"]) == [True, 0]


class Forks(Zygote):
    """A zygote without processes. It refuses some jobs first; `pipes` are the ends that jobs write to."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals, self.pipes = refusals, []

    def fork(self, job: int, output: int, seconds: float, memory_bytes: int) -> int:
        if self.refusals:
            self.refusals -= 1
            raise NoProcess
        self.pipes.append(os.dup(output))
        return os.getpid()

    def end(self, pid: int, grace_seconds: float) -> int:
        return 0


def settings(**others):
    return {"id": 1, "tests": 1, "timeout": 30.0, **others}


def test_the_server_does_not_wait_for_what_a_program_took_back_from_its_pipe():
    zygote = Forks()
    job = Running(settings(), b"{}", zygote)
    os.write(zygote.pipes[0], b"x")
    taken = os.open(f"/proc/self/fd/{zygote.pipes[0]}", os.O_RDONLY)
    os.read(taken, 1)  # between the server's look and its read
    os.close(taken)
    reader = threading.Thread(target=job.read, daemon=True)
    reader.start()
    reader.join(5)
    is_waiting = reader.is_alive()
    os.close(zygote.pipes[0])
    assert not is_waiting and job.finish("timeout")["lines"] == ""


def test_a_job_waits_while_no_process_can_be_forked(monkeypatch):
    server = Server(1, Forks(refusals=2))
    server.waiting.append((settings(), b"{}"))
    before = len(os.listdir("/proc/self/fd"))
    poll = select.poll()
    for _ in range(2):
        server.start_waiting(poll)
        assert (len(server.waiting), server.running, server.patience() <= 0.05) == (1, {}, True)
        assert len(os.listdir("/proc/self/fd")) == before
    server.start_waiting(poll)
    assert (len(server.waiting), len(server.running)) == (0, 1)
    server.waiting.append((settings(id=2), b"{}"))
    server.slots, server.zygote = 2, Forks(refusals=2)
    server.start_waiting(poll)
    monkeypatch.setattr(worker, "FORK_SECONDS", 0.0)
    with pytest.raises(NoProcess):
        server.start_waiting(poll)
    (job,) = server.running.values()
    job.finish("timeout")


@pytest.mark.parametrize(("has_ended", "end"), [(True, "exit"), (False, "timeout")])
def test_an_answer_that_came_while_the_server_was_busy_counts(monkeypatch, has_ended, end):
    server, replies, poll = Server(1, zygote := Forks()), [], select.poll()
    server.waiting.append((settings(timeout=0.0), b"{}"))
    server.start_waiting(poll)
    os.write(zygote.pipes[0], b"{}\n")
    if has_ended:
        os.close(zygote.pipes.pop())
    monkeypatch.setattr(worker, "reply", replies.append)
    server.end_late(poll, time.monotonic())
    assert [(reply["end"], reply["lines"]) for reply in replies] == [(end, "{}\n")]
    for pipe in zygote.pipes:
        os.close(pipe)
