# ruff: noqa: E501
"""What a program must not be able to do in the sandbox, by kind; each tries it and then gives the right answer.

A program that is stopped raises, so it fails; one that gets through passes.
"""

import os
import threading
import time

import psutil
import pytest

from eval.sandbox import client
from eval.sandbox.client import layers, run_program, run_tests
from eval.sandbox.values import as_json, encode, same_encoded, shown_value
from tests.helpers.processes import children_that_run

SUM = [{"input": [[1, 2, 3]], "output": 6}]


def trying(*lines, imports=""):
    body = "\n".join(f"    {line}" for line in lines)
    return f"import ctypes, os, socket, sys, threading, time\n{imports}\ndef f(xs):\n{body}\n    return sum(xs)\n"


def calling(number, *arguments):
    """A system call by its number on x86_64."""
    return trying(
        f"if libc.syscall({', '.join(map(str, (number, *arguments)))}) < 0: raise OSError(ctypes.get_errno())",
        imports="libc = ctypes.CDLL(None, use_errno=True)",
    )


ESCAPES = {
    "reads the accounts": trying("open('/etc/passwd').read()"),
    "reads the project": trying("os.listdir(sys.argv[0] or '/work')", "os.listdir('/')"),
    "reads home": trying("os.listdir(os.path.expanduser('~'))"),
    "reads the test's folder": trying("os.listdir(os.getcwd())"),
    "lists processes": trying("os.listdir('/proc')"),
    "reads its parent's environment": trying("open(f'/proc/{os.getppid()}/environ', 'rb').read()"),
    "reads its parent's memory": trying("open(f'/proc/{os.getppid()}/mem', 'rb')"),
    "reads its parent's descriptors": trying("os.listdir(f'/proc/{os.getppid()}/fd')"),
    "reads its own memory": trying("open('/proc/self/mem', 'rb')"),
    "looks at shared memory": trying("os.listdir('/dev/shm')"),
    "makes a folder": trying("os.mkdir('protege-escape')"),
    "makes a link": trying("os.symlink('/', 'protege-escape')"),
    "makes a pipe with a name": trying("os.mkfifo('protege-escape')"),
    "makes a temporary folder": trying("tempfile.mkdtemp()", imports="import tempfile"),
    "writes by ctypes": trying("assert libc.open(b'/tmp/e', 65, 384) >= 0", imports="libc = ctypes.CDLL(None)"),
    "hides flags in an argument's upper half": calling(257, -100, "b'/tmp/e'", "ctypes.c_ulong(0x100000041)", 384),
    "sets times": trying("os.utime('/tmp')"),
    "signals its group": trying("os.killpg(os.getpgrp(), 0)"),
    "signals itself": trying("signal.raise_signal(9)", imports="import signal"),
    "signals by descriptor": trying("os.pidfd_open(os.getppid())"),
    "has signals sent by a descriptor": trying("fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", imports="import fcntl"),
    "stops itself": trying("os.kill(os.getpid(), signal.SIGSTOP)", imports="import signal"),
    "limits its parent": trying("r.prlimit(os.getppid(), r.RLIMIT_NOFILE, (0, 0))", imports="import resource as r"),
    "limits itself": trying("r.prlimit(0, r.RLIMIT_NOFILE, (9, 9))", imports="import resource as r"),
    "opens a local socket": trying("socket.socket(socket.AF_UNIX)"),
    "opens a datagram pair": trying("socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)"),
    "opens a packet socket": trying("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
    "asks for a name on the network": trying("socket.getaddrinfo('localhost', 1)"),
    "shares memory": trying("os.memfd_create('x')"),
    "shares memory by key": calling(29, 1, 4096, 0o1600),
    "queues messages": calling(68, 1, 0o1600),
    "uses io_uring": calling(425, 1, 0),
    "looks into a process": calling(101, 16, "os.getppid()", 0, 0),
    "reads another process": calling(310, "os.getppid()", 0, 0, 0, 0, 0),
    "loads a filter": calling(321, 0, 0, 0),
    "enters namespaces": calling(272, 0x10000000),
    "mounts": calling(165, 0, "b'/tmp'", "b'tmpfs'", 0, 0),
    "keeps keys": calling(248, "b'user'", "b'x'", "b'y'", 1, -2),
    "uses a call of the 32-bit interface": calling(0x40000000 + 39),
    "uses a call that no list knows": calling(460, 0, 0),
    "pins itself": trying("os.sched_setaffinity(0, {0})"),
    "lowers its priority": trying("os.nice(1)"),
    "types on a terminal": trying("fcntl.ioctl(0, 0x5412, b'x')", imports="import fcntl"),
    "starts a pool": trying("m.Pool(1)", imports="import multiprocessing as m"),
    "starts by posix_spawn": trying("os.posix_spawn('/bin/true', ['true'], {})"),
    "imports what judges it": trying("import eval.sandbox.client"),
    "changes who it is": trying("os.setuid(1)"),
    "starts 5,000 threads": trying(
        "threading.stack_size(32768)",
        "for _ in range(5000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    ),
}  # fmt: skip

FORGERIES = {
    "a number too long to print": "def f(xs): return 10**5000",
    "a negative one": "def f(xs): return -10**5000",
    "a list of them": "def f(xs): return [10**5000]",
    "members that hash alike": "def f(xs): return {i * (2**61 - 1) for i in range(2000)}",
    "keys that hash alike": "def f(xs): return {i * (2**61 - 1): 1 for i in range(2000)}",
    "nested deeply": "def f(xs):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "deep JSON": "import os\ndef f(xs):\n    os.write(3, b'{\"output\": ' + b'[' * 10**5 + b'\\n')",
    "JSON that is no value": "import os\nos.write(3, b'{\"output\": {\"a\": [1]}}\\n{\"output\": [[], []]}\\n[1]\\n')\ndef f(xs): pass",
    "a float out of range": "import os\nos.write(3, b'{\"output\": [\"float\", \"0x1p99999\"]}\\n')\ndef f(xs): pass",
    "an int of letters": "import os\nos.write(3, b'{\"output\": [\"int\", \"zz\"]}\\n')\ndef f(xs): pass",
    "an error that is no text": "import os\nos.write(3, b'{\"error\": [[1]]}\\n')\ndef f(xs): pass",
    "a number that says what it is": "class I(int):\n    def __int__(s): return 6\n    __index__ = __int__\n    def __format__(s, f): return '6'\n    def __eq__(s, o): return True\n    __hash__ = None\ndef f(xs): return I(5)",
    "a list that says what it holds": "class L(list):\n    def __iter__(s): return iter([6])\ndef f(xs): return L()",
    "an exception that cannot be shown": "class E(BaseException):\n    def __str__(s): raise s\ndef f(xs): raise E()",
    "an exception of 100 MB": "class E(Exception):\n    def __str__(s): return 'x' * 10**8\ndef f(xs): raise E()",
    "a reply after the end": "import atexit, os\natexit.register(lambda: os.write(3, b'{}'))\ndef f(xs): return 5",
}  # fmt: skip

FORGERIES |= {
    "keys of keys of keys": "def f(xs):\n    a = 1\n    for _ in range(60): a = (a,)\n    return {a: 1}",
    "members of members": "def f(xs):\n    a = frozenset([1])\n    for _ in range(60): a = frozenset([a, 1])\n    return {a}",
    "a million empty lines": "import os\ndef f(xs): os.write(3, b'\\n' * 10**6)",
    "words that a terminal obeys": "def f(xs): raise Exception('\\ud800\\x1b[2J')",
}

FINE = {
    "thirty threads": "from concurrent.futures import ThreadPoolExecutor\nimport time\ndef f(xs):\n"
    "    with ThreadPoolExecutor(30) as pool: list(pool.map(lambda _: time.sleep(0.05), range(60)))\n    return sum(xs)",
    "numpy": "import numpy\ndef f(xs): return int(numpy.array(xs).sum())",
    "asyncio": "import asyncio\nasync def g(xs): return sum(xs)\ndef f(xs): return asyncio.run(g(xs))",
    "the library": "import datetime, decimal, fractions, json, statistics, zoneinfo\ndef f(xs): return sum(xs)",
    "a deep recursion in a thread": "import sys, threading\nsys.setrecursionlimit(10**5)\nthreading.stack_size(1 << 26)\n"
    "def g(n): return 0 if n == 0 else 1 + g(n - 1)\nout = []\ndef f(xs):\n"
    "    t = threading.Thread(target=lambda: out.append(g(5000)))\n    t.start(); t.join()\n    return out[0] - 4994",
    "an alarm of its own": "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\ndef f(xs):\n    signal.alarm(1)\n    return sum(xs)",
}  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_no_escape(name, tmp_path):
    before = set(os.listdir("/tmp"))
    result = run_tests(ESCAPES[name], "f", SUM, 10)
    assert result.status in ("failed", "crashed"), result
    assert not {"protege-escape", "e"} & (set(os.listdir("/tmp")) - before)


@pytest.mark.parametrize("name", FORGERIES)
def test_no_answer_makes_the_judge_raise_or_wait(name):
    started = time.monotonic()
    result = run_tests(FORGERIES[name], "f", SUM, 10)
    assert result.status != "passed", result
    assert time.monotonic() - started < 15
    assert result.detail.isprintable()


@pytest.mark.parametrize("name", FINE)
def test_ordinary_programs_run(name):
    result = run_tests(FINE[name], "f", SUM, 20)
    assert result.status == "passed", result


def test_the_layers_are_told():
    assert layers()[0] == "seccomp" and set(layers()) <= {"seccomp", "landlock", "namespaces"}


def test_a_silent_server_is_replaced_and_its_jobs_run_again(monkeypatch):
    assert run_tests("def f(xs): return sum(xs)", "f", SUM, 5).status == "passed"
    monkeypatch.setattr(client, "SILENCE_SECONDS", 1.5)
    (server,) = children_that_run("eval.sandbox.worker")
    for process in [psutil.Process(server), *psutil.Process(server).children(recursive=True)]:
        process.suspend()
    outcome = []
    thread = threading.Thread(
        target=lambda: outcome.append(run_tests("def f(xs): return sum(xs)", "f", SUM, 0.5))
    )
    thread.start()
    thread.join(60)
    assert outcome and outcome[0].status == "passed"
    assert children_that_run("eval.sandbox.worker") != [server]


def test_each_test_has_a_time_of_its_own():
    program = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    inputs = [[0.1], [0.1], [30], [0]]
    started = time.monotonic()
    outputs = run_program(program, "f", inputs, 60, test_timeouts=[5, 5, 0.5, 5])
    assert (outputs.end, len(outputs.messages)) == ("timeout", 2)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("output", "expected", "equal"),
    [
        ((1, 3), [1, 3], True), ([1, (2, 3)], [1, [2, 3]], True), ({1: "a"}, {"1": "a"}, True),
        ({True: 1}, {"true": 1}, True), ({1: 1}, {"2": 1}, False), ({(1, 2): 1}, {"[1, 2]": 1}, False),
        ({1, 2}, [1, 2], False), ("1", 1, False), (None, "null", False),
    ],
)  # fmt: skip
def test_expected_values_from_json(output, expected, equal):
    assert same_encoded(as_json(encode(output)), as_json(encode(expected))) is equal


@pytest.mark.parametrize(
    "anything",
    [None, [], {}, [1], ["int"], ["int", None], ["set", [[]]], ["list", 1], ["dict", [[1]]], "x", [[], []]],
)
def test_malformed_values_equal_nothing_and_can_be_shown(anything):
    for expected in (1, "x", [1], {1}, {"a": 1}, None, True):
        assert same_encoded(as_json(anything), as_json(encode(expected))) is False
    assert len(shown_value(anything)) <= 100
