"""Work that may never end, tried first in a process that can be killed."""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable

import psutil

POLL_SECONDS = 0.01
OUT_OF_MEMORY = 3
"""Exit status of a trial that asked for more memory than it may have."""


def broken_limit(work: Callable[[], object], seconds: float, memory: int) -> str | None:
    """The limit that the work does not keep, in words; None where it ends in time, be it with an error.

    It runs in a fork: neither a loop without end nor a single call that takes for ever can hold this process.
    `memory` are the bytes that it may ask for in addition to what this process has.
    """
    with warnings.catch_warnings():
        # threads of the tokenizers library may exist; the fork runs Python alone and takes none of its locks
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _try(work, seconds, memory)
    status = _ended(child, seconds)
    if status is None or os.WIFSIGNALED(status):
        return f"has not ended after {seconds:g} s"
    if os.WEXITSTATUS(status) == OUT_OF_MEMORY:
        return f"asks for more than {memory / 2**30:g} GiB of memory"
    return None


def _try(work: Callable[[], object], seconds: float, memory: int) -> None:
    """The child's whole life. It ends by itself too, should this process be killed meanwhile."""
    status = OUT_OF_MEMORY
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(int(seconds) + 1)
        most = psutil.Process().memory_info().vms + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        work()
        status = 0
    except MemoryError:
        pass
    except BaseException:  # its message is what the caller gets when it does the work itself
        status = 0
    finally:
        os._exit(status)


def _ended(child: int, seconds: float) -> int | None:
    """Its wait status; None if it had to be killed after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(POLL_SECONDS)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
