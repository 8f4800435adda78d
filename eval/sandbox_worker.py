"""The process in which `eval.sandbox` runs untrusted programs: a light parent, forked for each job.

Started by `eval.sandbox`; imports the standard library and `eval.confinement` only. It reads jobs from
stdin and writes results to stdout, one JSON value a line, and keeps at most `argv[1]` jobs running:

    in   {"id", "program", "entry_point", "inputs": [encoded arguments, one list a test], "timeout"}
    out  {"id", "lines": what the job wrote, "end": "exit" | "timeout" | "flood" | "signal N"}

A job's child writes one line a test. What a program returns is all it can influence: the expected values
never enter this process, so they can be neither read nor compared with here, and lines forged by
the program are worth nothing without the right values in them.

The child is confined by `eval.confinement` and by resource limits; see `eval.sandbox` for what that
does and does not cover.
"""

import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import types

from eval.confinement import Confinement

MEMORY_BYTES = 1 << 30
OUTPUT_BYTES = 1 << 20
OPEN_FILES = 64
MAX_DESCRIPTORS = 256
COMMON_IMPORTS = (
    "bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "operator", "random", "re",
    "string", "typing",
)  # fmt: skip

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
        job = {"id": 0, "program": "f = int", "entry_point": "f", "inputs": [["list", []]], "timeout": 10}
        running = Running(job, self.confinement)
        while running.read():
            pass
        result = running.finish(None)
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
    """The process: serves until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the client, whose end ends this process
    for name in COMMON_IMPORTS:  # once, before the forks
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    try:
        with tempfile.TemporaryDirectory(prefix="protege-sandbox-") as folder:
            os.chdir(folder)  # the jobs' working folder: empty, and they cannot create files in it
            Server(int(sys.argv[1])).serve()
    except OSError as failure:
        print(json.dumps({"refused": str(failure)}), flush=True)
        sys.exit(1)
