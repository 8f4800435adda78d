# ruff: noqa: E501
"""A corpus of hostile programs, by what they are after; see also test_hostile_programs.py. None gets through."""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path

import psutil
import pytest

from eval.sandbox.client import run_program, run_tests
from eval.sandbox.values import decode
from tests.helpers.paths import ROOT

SUM = [{"input": [[1, 2, 3]], "output": 6}]
RIGHT = "def f(xs): return sum(xs)"

# ------------------------------------------------------------------------------------ system calls

CALLS = {
    "signals": {
        "kill its parent": "62, os.getppid(), 9", "kill all": "62, -1, 9", "kill its group": "62, 0, 9",
        "tkill": "200, os.getppid(), 9", "tgkill": "234, os.getppid(), os.getppid(), 9",
        "rt_sigqueueinfo": "129, os.getppid(), 9, buffer", "rt_tgsigqueueinfo": "297, os.getpid(), os.getpid(), 9, buffer",
        "pidfd_open": "434, os.getppid(), 0", "pidfd_send_signal": "424, 3, 9, 0, 0", "timer_create": "222, 0, 0, buffer",
        "fcntl that sets an owner": "72, 3, 8, os.getppid()", "ioctl that sets an owner": "16, 3, 0x8901, buffer",
    },
    "other processes": {
        "ptrace": "101, 0x4206, os.getppid(), 0, 0", "process_vm_readv": "310, os.getppid(), buffer, 1, buffer, 1, 0",
        "process_vm_writev": "311, os.getppid(), buffer, 1, buffer, 1, 0", "pidfd_getfd": "438, 3, 0, 0",
        "kcmp": "312, os.getpid(), os.getppid(), 0, 0, 0", "move_pages": "279, os.getppid(), 0, 0, 0, 0, 0",
        "migrate_pages": "256, os.getppid(), 0, 0, 0", "process_madvise": "440, 3, buffer, 1, 20, 0",
        "process_mrelease": "448, 3, 0", "prlimit64": "302, os.getppid(), 7, buffer, 0",
        "prlimit64, upper half": "302, ctypes.c_ulong(1 << 32), 7, 0, 0", "setpriority": "141, 0, os.getppid(), 19",
        "sched_setaffinity": "203, os.getppid(), 8, buffer", "sched_setscheduler": "144, os.getppid(), 3, buffer",
        "ioprio_set": "251, 1, os.getppid(), 0",
    },
    "new processes": {
        "fork": "57", "vfork": "58", "clone": "56, 17, 0, 0, 0, 0", "clone of its parent": "56, 0x8011, 0, 0, 0, 0",
        "clone into namespaces": "56, 0x10010000, 0, 0, 0, 0", "clone3": "435, buffer, 88",
        "execve": "59, b'/bin/true', 0, 0", "execveat": "322, 3, b'', 0, 0, 0x1000", "setsid": "112", "setpgid": "109, 0, 0",
    },
    "other interfaces": {
        "x32 kill": "0x40000000 + 62, os.getppid(), 9", "x32 execve": "0x40000000 + 520, b'/bin/true', 0, 0",
        "a negative number": "-1", "the highest number": "0x3fffffff", "io_uring_setup": "425, 1, buffer",
        "io_uring_enter": "426, 3, 1, 1, 0, 0, 0", "io_setup": "206, 1, buffer", "userfaultfd": "323, 1",
        "memfd_create": "319, b'x', 0", "memfd_secret": "447, 0", "bpf": "321, 0, buffer, 48",
        "perf_event_open": "298, buffer, 0, -1, -1, 0", "seccomp": "317, 1, 0, buffer",
        "prctl that survives its parent": "157, 1, 0, 0, 0, 0", "prctl that sets a subreaper": "157, 36, 1, 0, 0, 0",
        "modify_ldt": "154, 1, buffer, 16", "personality": "135, 0xffffffff", "iopl": "172, 3",
    },
    "who it is": {
        "setuid": "105, 0", "setresuid": "117, 1, 1, 1", "setgroups": "116, 0, 0", "capset": "126, buffer, buffer",
        "unshare": "272, 0x10000000", "setns": "308, 3, 0", "chroot": "161, b'/tmp'", "pivot_root": "155, b'/', b'/'",
        "setrlimit": "160, 9, buffer", "landlock_restrict_self": "446, 3, 0",
    },
    "what stays behind": {
        "shmget": "29, 1, 4096, 0o1600", "semget": "64, 1, 1, 0o1600", "msgget": "68, 1, 0o1600", "mq_open": "240, b'x', 66, 384, 0",
        "add_key": "248, b'user', b'x', b'y', 1, -3", "keyctl": "250, 0, -3, 1", "request_key": "249, b'user', b'x', 0, -3",
        "mkdir": "83, b'/tmp/corpus', 511", "mknod": "133, b'/tmp/corpus', 4480, 0", "link": "86, b'/etc/passwd', b'/tmp/corpus'",
        "symlink": "88, b'/', b'/tmp/corpus'", "rename": "82, b'/tmp/a', b'/tmp/corpus'", "unlink": "87, b'/tmp/corpus'",
        "chmod": "90, b'/tmp', 0o777", "chown": "92, b'/tmp', 1, 1", "truncate": "76, b'/tmp/corpus', 0", "ftruncate": "77, 3, 0",
        "fallocate": "285, 3, 0, 0, 9", "creat": "85, b'/tmp/corpus', 384", "openat2": "437, -100, b'/tmp/corpus', buffer, 24",
        "an unnamed file": "257, -100, b'/tmp', 0x410002, 384", "setxattr": "188, b'/tmp', b'user.x', b'y', 1, 0", "flock": "73, 3, 2",
        "mount": "165, 0, b'/tmp', b'tmpfs', 0, 0", "open_tree": "428, -100, b'/', 1", "fsopen": "430, b'tmpfs', 0",
        "open_by_handle_at": "304, 3, buffer, 0", "inotify_init1": "294, 0", "fanotify_init": "300, 0, 0",
    },
    "channels": {
        "socket": "41, 1, 1, 0", "socket of a machine": "41, 40, 1, 0", "socket of ciphers": "41, 38, 5, 0",
        "socketpair of messages": "53, 1, 5, 0, buffer", "bind": "49, 3, buffer, 16", "connect": "42, 3, buffer, 16",
        "sendmsg": "46, 3, buffer, 0", "recvmsg": "47, 3, buffer, 0", "splice": "275, 0, 0, 3, 0, 9, 0", "vmsplice": "278, 3, buffer, 1, 0",
    },
    "the machine": {
        "reboot": "169, 0xfee1dead, 672274793, 0, 0", "sethostname": "170, b'x', 1", "settimeofday": "164, buffer, 0",
        "init_module": "175, buffer, 9, b''", "kexec_load": "246, 0, 0, 0, 0", "swapon": "167, b'/x', 0", "syslog": "103, 5, 0, 0",
    },
}  # fmt: skip
EVERY_CALL = [(kind, name) for kind, calls in CALLS.items() for name in calls]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are those of x86_64")
@pytest.mark.parametrize(("kind", "name"), EVERY_CALL)
def test_no_call_is_possible(kind, name):
    """Refused by the filter, before the kernel looks at the arguments: EPERM, or as if it did not exist."""
    program = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.syscall.restype = ctypes.c_long\n"
        "buffer = ctypes.create_string_buffer(256)\n"
        f"def f():\n    return [libc.syscall({CALLS[kind][name]}), ctypes.get_errno()]"
    )
    outputs = run_program(program, "f", [[]], 10)
    result, errno = decode(outputs.messages[0]["output"])
    assert result == -1 and errno in (1, 38), outputs


MACHINE_CODE = (
    "import ctypes, mmap\ndef f(xs):\n    page = mmap.mmap(-1, 4096, prot=7)\n"
    "    page.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20; int 0x80; ret\n"
    "    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()\n    return sum(xs)"
)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86_64")
def test_a_call_of_the_32_bit_interface_ends_the_program():
    assert run_tests(MACHINE_CODE, "f", SUM, 10).status == "crashed"


# ------------------------------------------------------------------------------- files and memory


def trying(*lines, imports=""):
    body = "\n".join(f"    {line}" for line in lines)
    return f"import ctypes, gc, os, sys, threading, time\n{imports}\ndef f(xs):\n{body}\n    return sum(xs)\n"


REACHES = {
    "the first process's environment": trying("open('/proc/1/environ', 'rb')"),
    "its own environment in /proc": trying("open('/proc/self/environ', 'rb')"),
    "its own map": trying("open('/proc/self/maps')"),
    "its pipe once more": trying("open('/proc/self/fd/3', 'wb')"),
    "the root by its link": trying("os.listdir('/proc/self/root')"),
    "its folder by its link": trying("os.listdir('/proc/self/cwd/..')"),
    "devices": trying("os.listdir('/dev')"),
    "the terminal": trying("open('/dev/tty', 'w')"),
    "the kernel's log": trying("open('/dev/kmsg', 'rb')"),
    "the machine in /sys": trying("os.listdir('/sys')"),
    "passwords": trying("open('/etc/shadow')"),
    "home folders": trying("os.listdir('/home')"),
    "root's folder": trying("os.listdir('/root')"),
    "these tests": trying(f"open({str(Path(__file__))!r}).read()"),
    "the expected values' file": trying(f"open({str(ROOT / 'configs/demo/code.heldout.evalplus.jsonl')!r}).read()"),
    "the benchmarks' helper": trying("import eval.benchmarks.evalplus_worker"),
    "the tests as a package": trying("import tests.helpers.paths"),
    "a file in /tmp": trying("open('/tmp/corpus', 'w')"),
    "a file in shared memory": trying("open('/dev/shm/corpus', 'w')"),
    "shared memory": trying("s.SharedMemory('corpus', create=True, size=9)", imports="import multiprocessing.shared_memory as s"),
    "a file of the interpreter": trying("open(os.__file__, 'a')"),
    "bytecode": trying("compileall.compile_file(os.__file__, force=True, quiet=2) or sys.exit(1)", imports="import compileall"),
    "more descriptors": trying("assert any(alive(n) for n in range(4, 70000))", imports="def alive(n):\n    try: return os.fstat(n)\n    except OSError: return None"),
    "its job through stdin": trying("assert os.read(0, 9)"),
    "its job by going back": trying("os.lseek(0, 0, 0); assert os.read(0, 9)"),
    "replies by reading": trying("assert os.read(3, 9)"),
    "the server's arguments": trying("assert len(sys.argv) > 1 or sys.argv[0]"),
    "the user's environment": trying("assert set(os.environ) - {'PATH', 'LANG', 'LC_CTYPE', 'OMP_NUM_THREADS', 'PYTHONHASHSEED', 'MALLOC_ARENA_MAX'}"),
    "more than its memory": trying("mmap.mmap(-1, 3 << 30)", imports="import mmap"),
    "more descriptors than allowed": trying("[os.pipe() for _ in range(40)]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REACHES)
def test_nothing_is_reached(name):
    result = run_tests(REACHES[name], "f", SUM, 10)
    assert result.status == "failed", result


SEARCH_FOR_WHAT_IS_EXPECTED = """
import gc, inspect, sys
def f(x):
    found = [frame.frame.f_locals for frame in inspect.stack()] + gc.get_objects() + list(sys.modules.values())
    for thing in found:
        if isinstance(thing, dict) and 'output' in thing: return thing['output']
        if isinstance(thing, str) and thing.startswith('the right') and thing != 'the right': return thing
"""


def test_what_is_expected_is_not_there():
    tests = [{"input": [1], "output": "the right answer"}]
    assert run_tests(SEARCH_FOR_WHAT_IS_EXPECTED, "f", tests, 10).status == "failed"


# --------------------------------------------------------------------------------------- forgeries

EVIL = "class E({base}):\n    {body}\ndef f(xs): return E({value})"
FORGED = 'b\'{"seconds": 0.0, "output": ["int", "6"], "passed": true, "status": "passed"}\\n\''
FORGERIES = {
    "replies on every descriptor": f"import os\ndef f(xs):\n    for n in range(65):\n        try: os.write(n, {FORGED} * 2)\n        except OSError: pass",
    "replies of the server": "import os\ndef f(xs):\n    for n in (0, 1, 2, 3):\n        os.write(n, b'{\"id\": 0, \"lines\": \"\", \"end\": \"exit\"}\\n' * 9)",
    "half a reply and the end": "import os\ndef f(xs):\n    os.write(3, b'{\"output\": [\"int\", \"')\n    os._exit(0)",
    "a reply before an endless one": "import os\ndef f(xs):\n    while True: os.write(3, b'x' * 65536)",
    "a reply by a thread that goes on": "import os, threading, time\ndef f(xs):\n    threading.Thread(target=lambda: [time.sleep(0.001) or os.write(3, b'{}\\n') for _ in range(999)]).start()\n    return 5",
    "the end of its pipe, and on": "import os, time\ndef f(xs):\n    os.close(3)\n    time.sleep(999)",
    "an error that claims to pass": "class passed(Exception): pass\ndef f(xs): raise passed('passed')",
    "another class": EVIL.format(base="", body="__class__ = int", value=""),
    "a class that every value has": EVIL.format(base="", body="__class__ = property(lambda s: bool)", value=""),
    "an equal of everything": EVIL.format(base="str", body="__eq__ = lambda s, o: True\n    __hash__ = str.__hash__", value="'x'"),
    "a list of another length": EVIL.format(base="list", body="__len__ = lambda s: 0\n    __iter__ = lambda s: iter([])", value="[6, 6]"),
    "a dict of other items": EVIL.format(base="dict", body="items = lambda s: [(1, 6)]\n    __iter__ = lambda s: iter([])", value=""),
    "something to unpickle": EVIL.format(base="", body="__reduce__ = lambda s: (exec, ('raise SystemExit',))", value=""),
    "a number of NumPy's": EVIL.format(base="", body="__module__ = 'numpy'; ndim = 0; item = lambda s: s", value=""),
    "a number that never ends": EVIL.format(base="", body="__module__ = 'numpy'; ndim = 0\n    def item(s):\n        while True: pass", value=""),
    "not a number as key": "def f(xs): return {float('nan'): 6, float('nan'): 6}",
    "itself": "def f(xs):\n    a = []\n    a.append(a)\n    return a",
    "itself by another": "def f(xs):\n    a = {}\n    a[1] = [a]\n    return a",
    "all numbers": "import itertools\ndef f(xs): return itertools.count()",
    "a value of 10 MB": "def f(xs): return b'x' * 10**7",
    "a name of 10 MB": "def f(xs): return type('x' * 10**7, (), {})()",
    "a fraction": "import fractions\ndef f(xs): return fractions.Fraction(6)",
    "what encodes it": "import json, json.encoder as e\njson.dumps = e.encode_basestring_ascii = e.JSONEncoder.encode = lambda *a, **k: '6'\ndef f(xs): return 5",
    "built-in functions": "import builtins\nfor name in ('isinstance', 'len', 'list', 'type', 'set', 'map', 'min', 'max'): setattr(builtins, name, lambda *a: True)\ndef f(xs): return 5",
    "every module": "import sys\nfor name in list(sys.modules): sys.modules[name] = None\ndef f(xs): return 5",
    "a trace": "import sys\nsys.settrace(lambda *a: 1 / 0)\nsys.setprofile(lambda *a: 1 / 0)\ndef f(xs): return 5",
    "an alarm that raises": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: 1 / 0)\nsignal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\ndef f(xs):\n    while True: pass",
    "an audit of all": "import sys\ndef hook(*a): raise SystemExit\nsys.addaudithook(hook)\ndef f(xs): return 5",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10**9)\ndef g(x): return g([x])\ndef f(xs): return g(1)",
    "a C stack": "def f(xs):\n    import pickle\n    class A:\n        def __reduce__(s): return (A, (A(),))\n    return pickle.dumps(A())",
    "a pattern that never ends": "import re\ndef f(xs): return re.match('(a+)+$', 'a' * 99 + 'b')",
    "a power that never ends": "def f(xs): return 9**9**9",
    "a string of 100 GB": "def f(xs): return '%099999999999d' % 6",
    "memory in small pieces": "def f(xs):\n    a = []\n    while True: a.append(bytearray(10**6))",
    "code that is no code": "import types\ndef f(xs):\n    c = f.__code__\n    return types.FunctionType(c.replace(co_code=b'\\x64\\xff' * 50, co_stacksize=0), {})()",
    "a collection that kills": "import gc, os\ngc.callbacks.append(lambda *a: os._exit(0))\ndef f(xs):\n    gc.collect()\n    return 6",
    "a program of NULs": "\0" * 100,
    "a program that is nested": "f = " + "(" * 10**5,
    "a program of 5 MB": "x = 1\n" * 800_000 + "def f(xs): return 5",
}  # fmt: skip
LONG = {"recursion without a limit", "memory in small pieces", "a program of 5 MB", "a pattern that never ends", "a power that never ends", "an alarm that raises", "a number that never ends", "a reply before an endless one"}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_nothing_wrong_passes_and_the_next_job_is_judged(name):
    started = time.monotonic()
    result = run_tests(FORGERIES[name], "f", SUM, 0.7 if name in LONG else 5)
    assert result.status != "passed" and result.detail.isprintable(), result
    assert time.monotonic() - started < 20
    assert run_tests(RIGHT, "f", SUM, 10).status == "passed"


# ------------------------------------------------------------------------------ what others notice

VANDAL = """
import os, signal, socket, sys, tempfile, threading, time
def attempts():
    yield lambda: [os.write(n, b'{}\\n') for n in range(4, 64)]
    for folder in ('/tmp', '/dev/shm', '.', '/var/tmp', sys.prefix, os.path.dirname(os.__file__), '/run', '/work'):
        for make in (os.mkdir, os.mkfifo, lambda p: os.symlink('/', p), lambda p: open(p, 'w'), lambda p: os.open(p, 66)):
            yield lambda m=make, f=folder: m(os.path.join(f, 'protege-vandal'))
    for pid in (0, -1, 1, os.getppid(), *range(os.getpid() - 50, os.getpid() + 50)):
        yield lambda p=pid: os.kill(p, 9)
    yield lambda: os.fork() or time.sleep(60)
    yield lambda: socket.socket(socket.AF_UNIX).bind('\\0protege-vandal')
    yield lambda: os.chmod('/tmp', 0)
    yield lambda: tempfile.mkstemp()
    for number in range(1, 65):
        yield lambda n=number: signal.signal(n, signal.SIG_IGN)
    yield lambda: threading.Thread(target=time.sleep, args=(60,)).start()
def f(xs):
    for attempt in attempts():
        try: attempt()
        except BaseException: pass
    return sum(xs)
"""


def _outside() -> dict[str, object]:
    folders = ("/tmp", "/dev/shm", "/var/tmp", "/run", os.getcwd(), str(ROOT), os.path.dirname(os.__file__))
    tables = ("/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg", "/proc/keys")
    return {
        **{folder: {n for n in os.listdir(folder) if "vandal" in n or "corpus" in n} for folder in folders},
        **{table: Path(table).read_text() for table in tables if os.access(table, os.R_OK)},
        "sockets": "protege-vandal" in Path("/proc/net/unix").read_text(),
        "mode": os.stat("/tmp").st_mode,
        "processes": {child.pid for child in psutil.Process().children(recursive=True)},
    }


def test_a_vandal_leaves_no_trace_and_disturbs_no_other_job():
    """Ten at a time, beside programs that must all be judged right."""
    run_tests(RIGHT, "f", SUM, 10)
    before, verdicts = _outside(), []

    def judge(program):
        verdicts.append(run_tests(program, "f", SUM, 20).status)

    threads = [threading.Thread(target=judge, args=(VANDAL if n % 2 else RIGHT,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == ["passed"] * 20
    assert _outside() == before
