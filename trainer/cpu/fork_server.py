"""Starts a run's processes by forking one that has imported verl and vLLM already (CPU machines).

A stage of a run is about nine Python processes, and importing verl costs each of them seconds; on two
cores that is most of a small run's time. Here one process imports once and forks whenever Ray asks for
a worker (`runtime_env: py_executable`) or vLLM for an engine (`multiprocessing.set_executable`). Forked
processes share their code's memory too. Nothing is forked that holds a device or does work in threads: the
server only imports.

`ForkServer` runs the server; `fork_client.py` is what Ray and multiprocessing call instead of `python`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import random
import re
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from common.processes import warm_python
from trainer.processes.reaper import MARK

BEFORE_RAY = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.entrypoints.llm",
)
"""What all processes of a command need, and what imports without Ray."""

PRELOADED = (
    *BEFORE_RAY,
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1.trainer_sync",
    "verl.workers.engine_workers",
    "verl.workers.engine.fsdp.transformer_impl",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.workers.rollout.vllm_rollout.vllm_rollout",
    "trainer.within.agent_loop",
    "trainer.within.task_runner",
    "trainer.within.replay",
    "trainer.engine.registered",
)
"""What the processes of a stage import; a module that is missing is left to whoever needs it."""

NOT_NEEDED = "sklearn"
"""transformers imports it where it is installed, which takes as long as all the rest of it, for one function
that nothing here calls."""

REAP_SECONDS = 0.2
"""How late a client may learn of its process's end."""

MODULE = "trainer.cpu.fork_server"
"""A server may be forked from another."""

CLIENT = Path(__file__).with_name("fork_client.py")
ADDRESS = "PROTEGE_FORK_SERVER"
"""Environment variable with the executable that stands for `python`, inherited by forked processes."""

FIRST = "PROTEGE_FORKED"
"""What a server's environment begins with, and no forked process takes away or changes: `setproctitle`,
by which vLLM's engines name themselves, looks for the place of a name beside the first variable."""


@dataclass(frozen=True)
class Order:
    """What a server's process is told."""

    listening: int
    """Number of its open socket."""
    executable: str
    modules: tuple[str, ...]
    hidden: tuple[str, ...]


class ForkServer:
    """The server, from outside: `executable` is at once what may be called instead of `python`.

    It waits until `launch` was called and the server has imported `modules`.
    """

    def __init__(
        self,
        log: Path,
        modules: Sequence[str] = PRELOADED,
        within: Path | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        """`within` is the folder for its socket and executable; by default that for temporary files.
        `hidden` packages are not there while it imports, and are afterwards."""
        self.log, self.modules, self.hidden = log, modules, hidden
        # a socket's path has 107 bytes; the server removes it too, should this process be killed
        self.folder = tempfile.TemporaryDirectory(prefix="protege-", dir=within, ignore_cleanup_errors=True)
        self.address = address = Path(self.folder.name) / "fork.sock"
        self.executable = Path(self.folder.name) / "python"
        client = [sys.executable, "-S", "-E", str(CLIENT), str(address), sys.executable]
        self.executable.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n', encoding="utf-8")
        self.executable.chmod(0o755)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(str(address))
        self.listening.listen(128)
        self.process: subprocess.Popen | None = None

    def launch(self, environment: Mapping[str, str] | None = None, python: str | None = None) -> None:
        """Starts importing, with these variables beside this process's own.

        Whatever a module reads at import must be there now: forked processes set their own too late for it.
        The server itself is forked where the command has a fork server already, unless `python` is given.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        number = self.listening.fileno()
        order = Order(number, str(self.executable), tuple(self.modules), tuple(self.hidden))
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                # -P: modules of the user's folder must not stand for ours
                [python or warm_python(), "-P", "-m", MODULE, json.dumps(asdict(order))],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={FIRST: "1", **os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for the command, which ends what it has started
            )
        self.listening.close()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_error: object) -> None:
        """Ends the server and every process that it has forked."""
        self.listening.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        self.folder.cleanup()


def main() -> None:
    """The server: import, then fork for every connection until it is ended."""
    order = Order(**json.loads(sys.argv[1]))
    listening = socket.socket(fileno=order.listening)
    os.environ[ADDRESS] = order.executable
    with hidden((NOT_NEEDED, *order.hidden)):
        for name in order.modules:
            try:
                importlib.import_module(name)
            except Exception as error:
                print(f"not preloaded: {name}: {type(error).__name__}: {error}", flush=True)
    print(f"imported; {len(os.listdir('/proc/self/task'))} threads", flush=True)
    gc.collect()
    gc.freeze()  # a child's garbage collection must not touch, and so copy, what all share
    _serve(listening)


@contextmanager
def hidden(packages: Sequence[str]) -> Iterator[None]:
    """In the block these cannot be imported. A module that has gone on without one is forgotten afterwards,
    so that whoever needs it gets it whole."""
    absent = {name: None for name in packages if name not in sys.modules}
    sys.modules.update(absent)  # pyright: ignore[reportArgumentType, reportCallIssue]
    yield
    for name in absent:
        del sys.modules[name]
    for name, module in list(sys.modules.items()):
        own = getattr(module, "__dict__", {})  # asked for more, a lazy module would import it
        if any(own.get(package, module) is None for package in absent):
            del sys.modules[name]


def _serve(listening: socket.socket) -> None:
    """Forks, and tells each client its process's id and, at its end, its exit code."""
    running: dict[int, socket.socket] = {}
    signal.signal(signal.SIGTERM, lambda *_: _end(running))
    while True:
        if select.select([listening], [], [], REAP_SECONDS)[0]:
            connection, _ = listening.accept()
            order = _read(connection)
            if order is None:
                connection.close()
                continue
            pid = os.fork()
            if pid == 0:
                _become(order, connection, [listening, *running.values()])
            for number in order["received"]:
                os.close(number)
            running[pid] = connection
            with contextlib.suppress(OSError):
                connection.sendall(f"{pid}\n".encode())
        _reap(running)


def _end(running: Iterable[int]) -> None:
    for pid in running:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(os.path.dirname(os.environ[ADDRESS]), ignore_errors=True)
    os._exit(0)


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        if (connection := running.pop(pid, None)) is not None:
            with contextlib.suppress(OSError):
                connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
            connection.close()


def _read(connection: socket.socket) -> dict | None:
    """What the client wants started, with its open files; None if it went away."""
    numbers = array.array("i")
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(256 * numbers.itemsize))
    for _, _, data in ancillary:
        numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if len(size) < 8:
        return None
    text, length = b"", int.from_bytes(size, "little")
    while len(text) < length:
        part = connection.recv(min(1 << 16, length - len(text)))
        if not part:
            return None
        text += part
    return {**json.loads(text), "received": list(numbers)}


def _become(order: dict, connection: socket.socket, others: list[socket.socket]) -> None:
    """In the forked process: be what the client was asked for. Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for other in others:
            other.close()
        lifeline = _take_files(order["received"], order["files"], connection.detach())
        os.setpgid(0, 0)  # Ray ends a worker's group with it
        os.chdir(order["folder"])
        executable = os.environ[ADDRESS]
        _take_environment(order["environment"])
        tempfile.tempdir = None  # a library that asked for it got the server's
        show_mark()
        _fresh_randomness()
        multiprocessing.set_executable(executable)
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
        code = _run(order["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # taking hundreds of modules apart would take longer than what they did


def _take_files(received: list[int], wanted: list[int], connection: int) -> int:
    """Gives the client's files the numbers that they had there; returns the connection's new number."""
    highest = max([*wanted, *received, connection]) + 1
    lifeline = os.dup2(connection, highest, inheritable=False)
    parked = [os.dup2(number, highest + 1 + place) for place, number in enumerate(received)]
    for number in (*received, connection):
        os.close(number)
    for number, target in zip(parked, wanted, strict=True):
        os.dup2(number, target)
        os.close(number)
    return lifeline


def _take_environment(wanted: Mapping[str, str]) -> None:
    """Makes the environment this one, with `FIRST` as it is."""
    for name in os.environ.keys() - wanted.keys() - {FIRST}:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def show_mark(name: str = MARK) -> None:
    """Makes /proc tell this process's own mark, by which a reaper finds it.

    /proc shows the variables that a program began with, in a forked process the server's. The mark is written
    over in place, as titles of processes are; one of another length, or none, stays as it is.
    """
    with open("/proc/self/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end, see proc(5)
    if not start < end:
        return
    found = ctypes.string_at(start, end - start)
    for match in re.finditer(rb"(?:^|\0)%b=([^\0]*)" % re.escape(name.encode()), found):
        own = os.environ.get(name, "").encode()
        if len(own) == len(match[1]):
            ctypes.memmove(start + match.start(1), own, len(own))


def _fresh_randomness() -> None:
    """Forked processes would draw the same numbers; a new process draws others."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()


def _end_with(lifeline: int) -> None:
    """Ends this process when its client was killed: whoever started it wants it gone."""
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _run(arguments: list[str]) -> int:
    """Runs `python ARGUMENTS...` in this process; returns its exit code."""
    while arguments and arguments[0] in ("-u", "-B", "-I", "-E", "-s", "-S", "-P"):
        arguments = arguments[1:]
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            module = sys.modules["__main__"]
            exec(compile(arguments[1], "<string>", "exec"), module.__dict__)
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None:
            return 0
        if isinstance(stop.code, int):
            return stop.code
        print(stop.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
