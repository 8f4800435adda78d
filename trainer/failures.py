"""The first real errors of a run, written where they happen and read by the launcher.

verl logs an exception of a rollout and goes on; the process that sees it appends it to a file here, so
that the run's last words are the cause and not its consequences.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path

CONFIG_KEY = "protege.failures_file"
"""Key in verl's config that carries the file's path to every worker."""


def record(path: str | os.PathLike[str], where: str, error: BaseException) -> None:
    """Appends one error, with its traceback and the time in seconds since the epoch."""
    line = {
        "time": time.time(),
        "where": where,
        "error": summary(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summary(error: BaseException) -> str:
    """The error in one line: what a remote call failed of, not the remote traceback that Ray's text holds."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):  # of a RayTaskError
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def first(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """The earliest error in the file, or None where nothing failed."""
    if not Path(path).exists():
        return None
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            return json.loads(line)
    return None
