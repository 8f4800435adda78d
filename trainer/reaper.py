"""Ends every process of a run when the run's own process is gone, however it went.

Run as a script: it reads standard input until the pipe closes, which the kernel does even after
`kill -9`, then ends all processes that carry the run's mark in their environment. Ray's workers and
vLLM's engines inherit the mark, wherever in the process tree they end up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

MARK = "PROTEGE_RUN_MARK"
"""Environment variable that every process of a run inherits."""


def start(mark: str) -> subprocess.Popen:
    """Starts the reaper for processes marked `mark`; it lives in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-I", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != MARK},
    )


def marked_processes(mark: str) -> list[int]:
    """Process ids whose environment holds the mark, without this process."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
            if needle in file.read().split(b"\0"):
                found.append(int(entry))
    return found


def end_marked(mark: str, spare: frozenset[int] = frozenset(), patience_seconds: float = 5.0) -> list[int]:
    """Asks every marked process to end, then kills what is left; returns the process ids it found."""
    found = [pid for pid in marked_processes(mark) if pid not in spare]
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while (
        left := [pid for pid in marked_processes(mark) if pid not in spare]
    ) and time.monotonic() < deadline:
        time.sleep(0.1)
    while left:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        left = [pid for pid in marked_processes(mark) if pid not in spare and _is_alive(pid)]
    return found


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    end_marked(sys.argv[1])
