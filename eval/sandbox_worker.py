"""The process in which `eval.sandbox` runs untrusted programs: a light parent, forked for each job.

Run as a script by `eval.sandbox` (standard library only, no import of this project). It reads jobs from
stdin and writes results to stdout, one JSON value a line, and keeps at most `argv[1]` jobs running:

    in   {"id", "program", "entry_point", "inputs": [encoded arguments, one list a test], "timeout"}
    out  {"id", "lines": what the job wrote, "end": "exit" | "timeout" | "flood" | "signal N"}

A job's child writes one line a test. What a program returns is all it can influence: the expected values
never enter this process, so they can be neither read nor compared with here, and lines forged by
the program are worth nothing without the right values in them.

The child is confined by `confine` (seccomp) and by resource limits; see `eval.sandbox` for what that
does and does not cover.
"""

import ctypes
import gc
import json
import os
import platform
import resource
import select
import signal
import sys
import time
import types

MEMORY_BYTES = 1 << 30
OUTPUT_BYTES = 1 << 20
OPEN_FILES = 64
MAX_DESCRIPTORS = 256

# -------------------------------------------------------------------------------------------- values


def encode(value, depth=0):
    """A value as JSON that keeps its type: `[class, content]`. Other types than builtins become opaque.

    Subclasses count as their builtin (Counter as dict, namedtuple as tuple), NumPy scalars as numbers.
    """
    if depth > 200:
        return ["opaque", "nested too deeply"]
    if value is None or value is True or value is False:
        return ["const", value]
    if isinstance(value, int):
        return ["int", format(int(value), "x")]
    if isinstance(value, float):
        return ["float", float(value).hex()]
    if isinstance(value, complex):
        return ["complex", [value.real.hex(), value.imag.hex()]]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    for kind, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set")):
        if isinstance(value, kind):
            return [name, [encode(item, depth + 1) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]]
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return encode(value.item(), depth + 1)
    return ["opaque", type(value).__name__]


def decode(data):
    """The value that `encode` described. Raises ValueError, TypeError or RecursionError for other JSON."""
    kind, content = data
    match kind:
        case "const":
            if content is None or isinstance(content, bool):
                return content
        case "int":
            return int(content, 16)
        case "float":
            return float.fromhex(content)
        case "complex":
            return complex(float.fromhex(content[0]), float.fromhex(content[1]))
        case "str":
            return str(content)
        case "bytes":
            return bytes.fromhex(content)
        case "list":
            return [decode(item) for item in content]
        case "tuple":
            return tuple(decode(item) for item in content)
        case "set":
            return frozenset(decode(item) for item in content)
        case "dict":
            return {decode(key): decode(value) for key, value in content}
    raise ValueError(f"not a value: {kind!r}")


# --------------------------------------------------------------------------------------- confinement

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_AT_REMOVEDIR = 0x200

# System call numbers: (x86_64, aarch64); None where the architecture has no such call.
_DENIED = {
    # other processes and programs
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    # network and other channels
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "keyctl": (250, 219), "add_key": (248, 217), "inotify_init1": (294, 26),
    # the machine and one's own limits
    "setrlimit": (160, 164), "prctl": (157, 167), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "sethostname": (170, 161),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "setuid": (105, 146), "setgid": (106, 144),
    # files: nothing can be created, written, renamed or removed
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "unlink": (87, None), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "mknod": (133, None), "mknodat": (259, 33),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
}  # fmt: skip
_ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
_CONDITIONAL = {
    "open": (2, None), "openat": (257, 56), "unlinkat": (263, 35), "clone": (56, 220), "prlimit64": (302, 261),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def filter_program(machine, allowed=()):
    """The seccomp filter as BPF instructions (code, jump if true, jump if false, constant).

    Everything is allowed but what is listed above, less the calls named in `allowed`. Raises OSError for
    an unknown machine.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"no system call table for {machine!r}; there is one for {', '.join(_ARCHITECTURES)}")
    column, audit_arch = _ARCHITECTURES[machine]
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, errno = 0x7FFF0000, 0x80000000, 0x00050000
    offset_number, offset_arch = 0, 4

    def argument(index):
        return (load, 0, 0, 16 + 8 * index)

    program = [
        (load, 0, 0, offset_arch),
        (equal, 1, 0, audit_arch),
        (answer, 0, 0, kill),
        (load, 0, 0, offset_number),
    ]
    if machine == "x86_64":  # the x32 numbers would pass by the list
        program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, errno | _EPERM)]
    for table, error in ((_DENIED, _EPERM), (_ABSENT, _ENOSYS)):
        numbers = (entry[column] for name, entry in table.items() if name not in allowed)
        for number in numbers:
            if number is not None:
                program += [(equal, 0, 1, number), (answer, 0, 0, errno | error)]
    # (call, argument to test, its bits, allowed if any bit is set): clone only for threads, unlinkat only
    # for folders, prlimit64 only to read, open only to read
    conditions = (
        ("clone", 0, _CLONE_THREAD, True),
        ("unlinkat", 2, _AT_REMOVEDIR, True),
        ("prlimit64", 2, 0xFFFFFFFF, False),
        ("open", 1, _WRITE_FLAGS, False),
        ("openat", 2, _WRITE_FLAGS, False),
    )
    for name, index, bits, allowed_if_set in conditions:
        number = _CONDITIONAL[name][column]
        if number is not None and name not in allowed:
            deny = errno | _EPERM
            verdicts = (allow, deny) if allowed_if_set else (deny, allow)
            program += [(equal, 0, 4, number), argument(index), (any_bit, 0, 1, bits)]
            program += [(answer, 0, 0, verdicts[0]), (answer, 0, 0, verdicts[1])]
    return [*program, (answer, 0, 0, allow)]


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


class Confinement:
    """A prepared seccomp filter; `apply` puts it on this process, for good.

    allowed: names of calls of the tables above that stay possible.
    """

    def __init__(self, allowed=()):
        instructions = filter_program(platform.machine(), allowed)
        self._array = (_Instruction * len(instructions))(*instructions)
        self._program = _Program(len(instructions), self._array)
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def apply(self):
        """Raises OSError where the kernel has no seccomp filters."""
        self._call(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self._call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(self._program), 0, 0)

    def die_with_parent(self):
        """Have the kernel kill this process when its parent ends."""
        self._call(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _call(self, option, *arguments):
        pad = [a if not isinstance(a, int) else ctypes.c_ulong(a) for a in arguments]
        if self._prctl(ctypes.c_int(option), *pad) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}) failed: {os.strerror(number)}")


# ---------------------------------------------------------------------------------------------- jobs


def run_job(job, write):
    """Run the program and its function on every input; `write` gets one line a test, or an error's."""
    module = sys.modules["candidate"] = types.ModuleType("candidate")
    namespace = vars(module)
    try:
        exec(compile(job["program"], "<program>", "exec"), namespace)
        function = namespace[job["entry_point"]]
    except BaseException as error:
        write({"error": describe(error)})
        return
    for encoded in job["inputs"]:
        try:
            reply = {"output": encode(function(*decode(encoded)))}
        except BaseException as error:
            reply = {"raised": describe(error)}
        write(reply)


def describe(error):
    """Type and message of an exception, shortened; never fails."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "exception that cannot be shown"


def child_main(job, output, confinement):
    """Become the job: confine this process, run, exit."""
    limit_resources(job["timeout"])
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if output != 3:
        os.dup2(output, 3)
    os.closerange(4, MAX_DESCRIPTORS)
    confinement.die_with_parent()
    confinement.apply()
    os_write, dumps, leave = os.write, json.dumps, os._exit  # the program may replace these names

    def write(reply):
        data = dumps(reply).encode() + b"\n"
        while data:
            data = data[os_write(3, data) :]

    try:
        run_job(job, write)
    finally:
        leave(0)


def limit_resources(timeout):
    """Limits of one job; the CPU limit only backs up the wall-clock one of the server."""
    cpu = int(timeout) + 2
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


class Running:
    """A job's child process and what it has written so far."""

    def __init__(self, job, confinement):
        self.id = job["id"]
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                child_main(job, write, confinement)
            finally:
                os._exit(70)
        os.close(write)
        self.pipe = read
        self.deadline = time.monotonic() + job["timeout"]
        self.chunks = []
        self.size = 0

    def read(self):
        """Take what is there; False at the end of the output or beyond its limit."""
        chunk = os.read(self.pipe, 1 << 16)
        self.chunks.append(chunk)
        self.size += len(chunk)
        return bool(chunk) and self.size <= OUTPUT_BYTES

    def finish(self, end):
        """End the child and describe the job."""
        if end is None and self.size > OUTPUT_BYTES:
            end = "flood"
        # A child that closed its pipe but goes on is killed; one that is exiting keeps its own status.
        status = self._reap_within(0.05) if end is None else None
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        if end is None:
            end = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "exit"
        return {"id": self.id, "lines": b"".join(self.chunks).decode("utf-8", "replace"), "end": end}

    def _reap_within(self, seconds):
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            if time.monotonic() > until:
                return None
            time.sleep(0.0002)


class Server:
    """Takes jobs from stdin until it ends, runs up to `slots` at a time."""

    def __init__(self, slots):
        self.slots = slots
        self.confinement = Confinement()
        self.waiting = []
        self.running = {}
        self.buffer = bytearray()
        self.parent = os.getppid()

    def serve(self):
        poll = select.poll()
        poll.register(0, select.POLLIN | select.POLLHUP)
        self.check()
        self.reply({"ready": os.getpid()})
        while os.getppid() == self.parent:
            self.start_waiting(poll)
            for descriptor, _event in poll.poll(self.patience() * 1000):
                if descriptor == 0:
                    if not self.take_jobs():
                        return
                elif not self.running[descriptor].read():
                    self.end(poll, descriptor, None)
            now = time.monotonic()
            for descriptor in [d for d, job in self.running.items() if job.deadline <= now]:
                self.end(poll, descriptor, "timeout")

    def check(self):
        """Run a first job. Raises OSError if a right program does not pass: jobs cannot be judged then."""
        job = Running({"id": 0, "program": "f = int", "entry_point": "f", "inputs": [["list", []]], "timeout": 10},
                      self.confinement)  # fmt: skip
        while job.read():
            pass
        result = job.finish(None)
        if result["end"] != "exit" or json.loads(result["lines"] or "{}") != {"output": ["int", "0"]}:
            raise OSError(f"a confined process could not run: {result}")

    def patience(self):
        """Seconds until the next deadline, at most one."""
        now = time.monotonic()
        return max(0.0, min([1.0, *(job.deadline - now for job in self.running.values())]))

    def take_jobs(self):
        data = os.read(0, 1 << 20)
        self.buffer += data
        *lines, rest = self.buffer.split(b"\n")
        self.buffer = rest
        self.waiting += [json.loads(line) for line in lines]
        return bool(data)

    def start_waiting(self, poll):
        while self.waiting and len(self.running) < self.slots:
            running = Running(self.waiting.pop(0), self.confinement)
            self.running[running.pipe] = running
            poll.register(running.pipe, select.POLLIN | select.POLLHUP)

    def end(self, poll, descriptor, end):
        poll.unregister(descriptor)
        self.reply(self.running.pop(descriptor).finish(end))

    def reply(self, message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the client, whose end ends this process
    # What programs commonly import is loaded once, before the forks.
    import bisect, collections, functools, heapq, itertools, math, random, re, string, typing  # noqa: E401, F401

    gc.collect()
    gc.freeze()
    Server(int(sys.argv[1])).serve()


if __name__ == "__main__":
    try:
        main()
    except OSError as failure:
        print(json.dumps({"refused": str(failure)}), flush=True)
        sys.exit(1)
