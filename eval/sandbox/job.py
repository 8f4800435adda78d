"""What happens in the process of one job: it confines itself, reads its job, and runs the program.

Standard library and neighbours only: the zygote, from which every job is forked, imports it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable
from typing import Any

from eval.sandbox.confinement import Confinement
from eval.sandbox.values import decode, encode

OPEN_FILES = 64
MAX_DESCRIPTORS = 1 << 20
_JOB, _OUTPUT = 0, 3
"""Descriptors in a job's process."""


def become(
    job: int, output: int, timeout: float, memory_bytes: int, confinement: Confinement, parent: int
) -> None:
    """Turn this process into the job that the file `job` holds; does not return.

    The program finds no descriptor open but the standard ones, all of them the null device, and the pipe to
    which the outputs go.
    """
    limit_resources(timeout, memory_bytes)
    os.dup2(job, _JOB)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    if output != _OUTPUT:
        os.dup2(output, _OUTPUT)
    confinement.die_with(parent)
    confinement.apply()
    os.closerange(_OUTPUT + 1, MAX_DESCRIPTORS)
    os_write, dumps, leave = os.write, json.dumps, os._exit  # the program may replace these names

    def write(reply: dict[str, Any]) -> None:
        data = dumps(reply).encode() + b"\n"
        while data:
            data = data[os_write(_OUTPUT, data) :]

    try:
        run_job(_read_job(), write)
    finally:
        leave(0)


def _read_job() -> dict[str, Any]:
    with open(_JOB, "rb", closefd=False) as file:
        job = json.loads(file.read())
    os.dup2(1, _JOB)
    return job


def limit_resources(timeout: float, memory_bytes: int) -> None:
    """Limits of one job; the CPU limit only backs up the wall-clock one of the server."""
    cpu = int(timeout) + 2
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_STACK, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def run_job(job: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    """Run the program and its function on every input; `write` gets one line a test, or an error's."""
    module = sys.modules["candidate"] = types.ModuleType("candidate")
    namespace = vars(module)
    try:
        exec(compile(job["program"], "<program>", "exec"), namespace)
        function = namespace[job["entry_point"]]
    except BaseException as error:
        write({"error": describe(error)})
        return
    clock = time.perf_counter
    for encoded in job["inputs"]:
        try:
            arguments, started = decode(encoded), clock()
            output = function(*arguments)
            reply: dict[str, Any] = {"seconds": clock() - started, "output": encode(output)}
        except BaseException as error:
            reply = {"raised": describe(error)}
        write(reply)


def describe(error: BaseException) -> str:
    """Type and message of an exception, shortened; never fails."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "exception that cannot be shown"
