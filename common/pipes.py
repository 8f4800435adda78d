"""The pipes of a process that was started to be talked to."""

from __future__ import annotations

from subprocess import Popen
from typing import IO, AnyStr


def pipes(process: Popen[AnyStr]) -> tuple[IO[AnyStr], IO[AnyStr]]:
    """Its stdin and stdout, both of which were opened as `subprocess.PIPE`."""
    assert process.stdin is not None and process.stdout is not None, "started without pipes"
    return process.stdin, process.stdout
