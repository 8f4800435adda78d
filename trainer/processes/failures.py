"""The first real errors of a run, written where they happen and read by the launcher.

verl logs an exception of a rollout and goes on; the process that sees it appends it to a file here, so
that the run's last words are the cause and not its consequences.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

from typing_extensions import TypedDict

from common.errors import ConfigError
from common.reading import lines_of, opened, typed_json
from trainer.processes.actors import ADVICE

CONFIG_KEY = "protege.failures_file"
"""Key in verl's config that carries the file's path to every worker."""


class Failure(TypedDict):
    """One error, as a line of the file."""

    time: float
    """Seconds since the epoch."""
    where: str
    error: str
    traceback: str


def record(path: str | os.PathLike[str], where: str, error: BaseException) -> None:
    """Appends one error, with its traceback and the time in seconds since the epoch; on a full disk it stays
    with its raiser alone."""
    line: Failure = {
        "time": time.time(),
        "where": where,
        "error": summary(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    with suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summary(error: BaseException) -> str:
    """The error in one line: what a remote call failed of, not the remote traceback that Ray's text holds."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):  # of a RayTaskError
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and ITS_START in lines[0]:
        return lines[-1]
    told = dict(line.split(": ", 1) for line in lines if ": " in line)
    if lines and ITS_END in lines[0] and "class_name" in told:
        part = told["class_name"].rsplit(".", 1)[-1]
        where = f"pid {told.get('pid', 'unknown')} on {told.get('ip', 'an unknown node')}"
        return f"{type(error).__name__}: {part} ({where}) died: {lines[-1].split(ADVICE)[0]}"
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


ITS_START = "error raised in its creation task"
"""Ray's words for an actor whose start failed; why stands in the traceback that follows them."""

ITS_END = "died unexpectedly before finishing this task"
"""Ray's words for an actor that ended later; which one, and how, stands in the lines that follow them."""


def first(path: str | os.PathLike[str]) -> Failure | None:
    """The earliest error in the file, or None where nothing failed, or the file cannot be read: what ended
    the training is told all the same."""
    with suppress(ConfigError), opened(Path(path), "the errors of a training") as file:
        for line in lines_of(file, Path(path)):
            with suppress(ConfigError):  # a line that a full disk has cut
                return typed_json(line, Failure, str(path))
    return None
