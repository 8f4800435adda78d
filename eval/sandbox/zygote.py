"""The process from which every job is forked. It never holds a byte of any job.

A program can read all of its memory, and that begins as a copy of the process it was forked from. So the
server (`eval.sandbox.worker`), which holds the programs and outputs of all jobs, forks this process before it
reads its first job, and asks it for children from then on. A request is three numbers and two descriptors: a
memory file with the job, which only the child reads, and the pipe that the child writes to. An answer is one
number: the child's process id, or how it ended.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import time
from typing import NoReturn

from eval.sandbox.confinement import Confinement
from eval.sandbox.job import become

_REQUEST, _ANSWER = struct.Struct("<bdq"), struct.Struct("<q")
_FORK, _END = 0, 1
"""Requests: fork a child (seconds, bytes of memory), or end one (seconds that it may still take, its id)."""
_NO_CHILD = -1
_OTHER_SIDE_IS_GONE = "the process that forks the jobs has ended"


class NoProcess(OSError):
    """The kernel refused a process, for want of memory or process ids: perhaps for a moment only."""


class Zygote:
    """The server's side. Raises OSError where no child could be forked, or the process has ended."""

    def __init__(self, confinement: Confinement) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                self._socket.close()
                _serve(other, confinement, server)
            finally:
                os._exit(70)
        other.close()

    def fork(self, job: int, output: int, seconds: float, memory_bytes: int) -> int:
        """The process id of a child that runs the job which the file `job` holds. Raises NoProcess."""
        pid = self._ask(_REQUEST.pack(_FORK, seconds, memory_bytes), [job, output])
        if pid == _NO_CHILD:
            raise NoProcess("no process could be forked for a job")
        return pid

    def end(self, pid: int, grace_seconds: float) -> int:
        """How a child ended, as `os.waitpid` tells it. One that has not ended within the grace is killed."""
        return self._ask(_REQUEST.pack(_END, grace_seconds, pid))

    def _ask(self, request: bytes, descriptors: list[int] | None = None) -> int:
        socket.send_fds(self._socket, [request], descriptors or [])
        answer = self._socket.recv(_ANSWER.size)
        if not answer:
            raise OSError(_OTHER_SIDE_IS_GONE)
        return _ANSWER.unpack(answer)[0]


def _serve(server: socket.socket, confinement: Confinement, server_pid: int) -> NoReturn:
    """Until the server ends; the kernel then kills the children, as they asked it to."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # jobs come in through the server's
        os.dup2(null, descriptor)
    os.close(null)
    confinement.die_with(server_pid)
    gc.collect()
    gc.freeze()
    own_pid = os.getpid()
    while True:
        request, descriptors, _flags, _address = socket.recv_fds(server, _REQUEST.size, 2)
        if not request:
            os._exit(0)
        kind, seconds, number = _REQUEST.unpack(request)
        if kind == _FORK:
            answer = _forked(descriptors, seconds, number, confinement, own_pid)
        else:
            answer = _ended(number, seconds)
        server.send(_ANSWER.pack(answer))


def _forked(
    descriptors: list[int], seconds: float, memory_bytes: int, confinement: Confinement, own_pid: int
) -> int:
    job, output = descriptors
    try:
        pid = os.fork()
    except OSError:
        pid = _NO_CHILD
    if pid == 0:
        try:
            become(job, output, seconds, memory_bytes, confinement, own_pid)
        finally:
            os._exit(70)
    os.close(job)
    os.close(output)
    return pid


def _ended(pid: int, grace_seconds: float) -> int:
    until = time.monotonic() + grace_seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.0002)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
