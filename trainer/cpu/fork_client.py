"""Stands in for `python` where a process of a run is started: asks the fork server for it.

Run as a script with `-S -E`, so that it starts in a moment: `fork_client.py SOCKET PYTHON ARGUMENTS...`.
It hands its arguments, environment, folder and open files over, lives as long as the forked process, and
ends with its exit code. If there is no fork server it becomes `PYTHON ARGUMENTS...`.
"""

import array
import contextlib
import json
import os
import signal
import socket
import sys

MOST_FILES = 200
"""The kernel takes 253 in one message."""


def main() -> None:
    address, python, *arguments = sys.argv[1:]
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(address)
    except OSError:
        os.execv(python, [python, *arguments])
    files = _open_files(connection.fileno())
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "files": files}
    text = json.dumps(order).encode()
    rights = array.array("i", files)
    answers = connection.makefile("r")
    first = ""
    with contextlib.suppress(OSError):
        connection.sendmsg(
            [len(text).to_bytes(8, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())]
        )
        connection.sendall(text)
        first = answers.readline()
    if not first:  # the server ended before it forked
        os.execv(python, [python, *arguments])
    _forward_signals(int(first))
    for number in files:
        if number > 2:
            os.close(number)
    last = answers.readline()
    os._exit(int(last) if last.strip() else 1)


def _open_files(own: int) -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            if int(name) != own:
                found.append(int(name))
    return sorted(found)[:MOST_FILES]


def _forward_signals(pid: int) -> None:
    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(OSError):
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, forward)


if __name__ == "__main__":
    main()
