"""Untrusted programs are judged by their outputs, cannot do harm, and never break the server."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from eval.sandbox.client import run_tests
from eval.sandbox.seccomp import filter_program
from eval.sandbox.values import decode, encode, same
from tests.helpers.processes import children_that_run

SUM = [{"input": [[1, 2, 3]], "output": 6}, {"input": [[]], "output": 0}]
RIGHT = "def f(xs):\n    return sum(xs)\n"


def status(program, tests=SUM, timeout_s=1.0):
    return run_tests(program, "f", tests, timeout_s).status


def server_pid():
    assert run_tests(RIGHT, "f", SUM, 10).status == "passed"
    return running_server()


def running_server():
    """The server of this process; a process that is just being replaced may be missed by one look."""
    end = time.monotonic() + 5
    while not (found := children_that_run("eval.sandbox.worker")) and time.monotonic() < end:
        time.sleep(0.05)
    (pid,) = found
    return pid


def test_a_right_program_passes_every_test():
    result = run_tests(RIGHT, "f", SUM, timeout_s=10)
    assert (result.status, result.passed, result.total, result.detail) == ("passed", 2, 2, "")


def test_a_wrong_program_says_which_test_and_how_many_passed():
    result = run_tests("def f(xs): return 0", "f", SUM, timeout_s=10)
    assert (result.status, result.passed, result.total) == ("failed", 1, 2)
    assert result.detail == "test 0: wrong output 0"


HARMLESS = {
    "prints": ("def f(xs):\n    print('x' * 10**6)\n    return sum(xs)", "passed"),
    "thread": (
        "import threading\ndef f(xs):\n    out = []\n"
        "    t = threading.Thread(target=lambda: out.append(sum(xs)))\n"
        "    t.start(); t.join()\n    return out[0]",
        "passed",
    ),
    "prints to stdout's descriptor": (
        'import os\ndef f(xs):\n    os.write(1, b\'{"id": 0, "end": "exit"}\\n\')\n    return sum(xs)',
        "passed",
    ),
}
HARMFUL = {
    "syntax error": ("def f(xs:", "error"),
    "no such function": ("def g(xs): return sum(xs)", "error"),
    "exits while loading": ("import sys\nsys.exit(0)", "error"),
    "raises SystemExit": ("def f(xs): raise SystemExit(0)", "failed"),
    "ends its process": ("import os\ndef f(xs): os._exit(0)", "crashed"),
    "segmentation fault": ("import ctypes\ndef f(xs): ctypes.string_at(0)", "crashed"),
    "loops": ("def f(xs):\n    while True: pass", "timeout"),
    "sleeps": ("import time\ndef f(xs): time.sleep(1000)", "timeout"),
    "loops while loading": ("while True: pass", "timeout"),
    "recurses": ("def f(xs): return f(xs)", "failed"),
    "allocates 10 GB": ("def f(xs): return len(bytearray(10 * 10**9))", "failed"),
    "returns too much": ("def f(xs): return 'x' * (3 << 20)", "crashed"),
    "reads stdin": ("def f(xs): return input()", "failed"),
    "forks": ("import os\ndef f(xs):\n    os.fork()\n    return sum(xs)", "failed"),
    "fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "timeout",
    ),
    "starts a program": (
        "import subprocess\ndef f(xs):\n    subprocess.run(['true'])\n    return sum(xs)",
        "failed",
    ),
    "opens a socket": ("import socket\ndef f(xs):\n    socket.socket()\n    return sum(xs)", "failed"),
    "writes a file": ("def f(xs):\n    open('a', 'w')\n    return sum(xs)", "failed"),
    "removes files": (
        "import os\ndef f(xs):\n    try: os.unlink('/tmp/nothing')\n"
        "    except FileNotFoundError: return sum(xs)",
        "failed",
    ),
    "kills its parent": (
        "import os\ndef f(xs):\n    os.kill(os.getppid(), 9)\n    return sum(xs)",
        "failed",
    ),
    "raises its limits": (
        "import resource as r\ndef f(xs):\n    r.setrlimit(r.RLIMIT_AS, (-1, -1))\n    return sum(xs)",
        "failed",
    ),
    "equals everything": (
        "class E(int):\n    def __eq__(self, other): return True\ndef f(xs): return E(99)",
        "failed",
    ),
    "an object that equals everything": (
        "class E:\n    def __eq__(self, other): return True\ndef f(xs): return E()",
        "failed",
    ),
    "forges results": (
        'import os\nos.write(3, b\'{"output": ["int", "1"]}\\n\' * 9)\ndef f(xs): return 1',
        "crashed",
    ),
    "forges nonsense": ("import os\nos.write(3, b'[[[[\\n\\xff\\n' * 9)\ndef f(xs): return 1", "crashed"),
    "replaces the comparison": (
        "import builtins, json, sys, eval.sandbox.worker as w\n"
        "w.encode = lambda *a: ['int', '1']\nw.same = lambda *a: True\n"
        "builtins.isinstance = lambda *a: True\ndef f(xs): return 1",
        "not passed",
    ),
    "looks for the expected value": (
        "import gc, sys\ndef f(xs):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in frame.f_locals.values():\n            if isinstance(v, dict) and 'output' in v:\n"
        "                return v['output']\n        frame = frame.f_back\n    return None",
        "failed",
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_program_may_do(name):
    program, expected = HARMLESS[name]
    assert status(program, timeout_s=10) == expected


@pytest.mark.parametrize("name", HARMFUL)
def test_a_bad_program_does_not_pass_and_the_server_lives_on(name):
    before = server_pid()
    program, expected = HARMFUL[name]
    result = run_tests(program, "f", SUM, timeout_s=1.0 if expected == "timeout" else 10.0)
    assert result.status != "passed" if expected == "not passed" else result.status == expected, result
    assert server_pid() == before


def test_nothing_of_a_job_is_left_running():
    server = psutil.Process(server_pid())
    before = server.children(recursive=True)
    status("import time\ndef f(xs): time.sleep(1000)", timeout_s=0.3)
    assert server.children(recursive=True) == before


def test_threads_share_a_server():
    def job(i):
        return run_tests("def f(x): return x + 1", "f", [{"input": [i], "output": i + 1}], 20).status

    pid = server_pid()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(job, range(60))) == {"passed"}
    assert running_server() == pid


def _pid_in_child(results):
    results.put((status(RIGHT, timeout_s=20), running_server()))


def test_a_forked_process_starts_its_own_server():
    pid = server_pid()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_pid_in_child, args=(results,))
    child.start()
    outcome, child_pid = results.get(timeout=60)
    child.join(60)
    assert outcome == "passed" and child_pid != pid
    assert server_pid() == pid


def test_a_killed_server_is_replaced():
    pid = server_pid()
    os.kill(pid, signal.SIGKILL)
    assert status(RIGHT, timeout_s=10) == "passed"
    assert running_server() != pid


def test_the_server_ends_with_its_client():
    script = (
        "from eval.sandbox import client as sandbox; "
        "sandbox.run_tests('f = int', 'f', [{'input': [], 'output': 0}], 20); "
        "import os, psutil; print(psutil.Process().children()[0].pid, flush=True); os._exit(0)"
    )
    import subprocess
    import sys
    import time

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.1)
    pytest.fail("the server outlived its client by 10 s")


def test_a_job_is_forked_from_a_process_that_loads_nothing_heavy():
    program = "import sys\ndef f(): return sorted(set(sys.modules) & {'torch', 'numpy', 'ray', 'pydantic'})"
    assert run_tests(program, "f", [{"input": [], "output": []}], 10).status == "passed"


@pytest.mark.parametrize(
    ("output", "expected", "equal"),
    [
        (True, 1, False), (1, True, False), (2.0, 2, True), (2, 2.0, True), (2.0000001, 2, False),
        (0.1 + 0.2, 0.3, True), (0.31, 0.3, False), ((1, 2), [1, 2], False), ([1, [2.0]], [1, [2]], True),
        ([True], [1], False), ({"a": 1}, {"a": 1}, True), ({"a": True}, {"a": 1}, False),
        ({1: 2}, {True: 2}, False), ({1, 2}, frozenset({2, 1}), True), (None, 0, False), ("1", 1, False),
        (float("nan"), float("nan"), False), (10**400, 1.0, False), ([1], [1, 2], False), (1j, 1j, True),
    ],
)  # fmt: skip
def test_comparison(output, expected, equal):
    assert same(output, expected) is equal


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(10**50),
        1.5,
        float("inf"),
        "ä\ud800",
        b"\x00",
        (1, [2]),
        {"a": {1: (2,)}},
        1 + 2j,
        [],
        (),
        [1, 2.5, "x", True, None],
        [2**63, -(2**63)],
        [2**63 - 1],
        [float("inf"), -0.0],
        (1, (2, [3])),
        {1, "a"},
        [[1, 2], [3]],
        [1, b"x"],
    ],
)
def test_values_survive_the_pipe(value):
    assert decode(encode(value)) == value and type(decode(encode(value))) is type(value)


@pytest.mark.parametrize("tests", [[], [{"input": [1]}], [{"input": 1, "output": 1}], ["x"]])
def test_malformed_tests_are_refused(tests):
    with pytest.raises(ValueError, match="test"):
        run_tests(RIGHT, "f", tests)


def test_the_filter_exists_for_both_architectures_and_no_other():
    for machine in ("x86_64", "aarch64"):
        instructions = filter_program(machine)
        for place, (_code, if_true, if_false, _constant) in enumerate(instructions):
            assert place + 1 + max(if_true, if_false) < len(instructions) or place == len(instructions) - 1
    with pytest.raises(OSError, match="riscv64"):
        filter_program("riscv64")
