"""Starting a process, and talking to it."""

from __future__ import annotations

import os
import sys
from subprocess import Popen
from typing import IO, AnyStr

WARM_PYTHON = "PROTEGE_WARM_PYTHON"
"""Environment variable with what may be called instead of `python`; `trainer.cpu.warm` sets it."""


def warm_python() -> str:
    """Path of what takes Python's arguments: where the command keeps one, it has imported torch and vLLM."""
    warm = os.environ.get(WARM_PYTHON)
    return warm if warm and os.access(warm, os.X_OK) else sys.executable


def pipes(process: Popen[AnyStr]) -> tuple[IO[AnyStr], IO[AnyStr]]:
    """Its stdin and stdout, both of which were opened as `subprocess.PIPE`."""
    assert process.stdin is not None and process.stdout is not None, "started without pipes"
    return process.stdin, process.stdout
