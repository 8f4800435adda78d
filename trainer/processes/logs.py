"""What Ray's workers of a run wrote to their logs on this machine.

Ray renames a worker's logs when it gives the worker a job, so any of them may be gone when it is opened.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

ERROR_LINE = re.compile(r"^(?:.*\s)?([A-Za-z_.]*(?:Error|Exception|Interrupt): .+)$")

ALL_JOBS = "*"
"""Pattern of job ids for a Ray that was started for one run: all of its logs are that run's."""


def worker_logs(logs: Path, job: str = ALL_JOBS, end: str = "*") -> list[Path]:
    """Log files of the workers of one Ray job; a worker writes `worker-<id>-<job>-<pid>.out` and `.err`.

    A Ray cluster that is joined keeps the logs of every job that it has run.
    """
    pattern = f"worker-*.{end}" if job == ALL_JOBS else f"worker-*-{job}-*.{end}"
    return sorted(logs.glob(pattern))


def newest_error(logs: Path, job: str = ALL_JOBS) -> tuple[float, str] | None:
    """The newest exception that a worker wrote to its error log, after its time (seconds since the epoch)."""
    newest: tuple[float, str] | None = None
    for file in worker_logs(logs, job, "err"):
        written, lines = _tail(file)
        matches = [m.group(1) for line in lines if (m := ERROR_LINE.match(line))]
        if matches and (newest is None or written > newest[0]):
            newest = (written, matches[0])
    return newest


def last_error_line(logs: Path) -> str | None:
    """`newest_error` without its time."""
    newest = newest_error(logs)
    return newest[1] if newest else None


def collected(logs: Path, job: str = ALL_JOBS) -> str:
    """The ends of all workers' logs, the newest last."""
    files = [*worker_logs(logs, job, "err"), *worker_logs(logs, job, "out")]
    tails = sorted(((*_tail(file), file.name) for file in files), key=lambda tail: tail[0])
    return "\n\n".join(f"=== {name}\n" + "\n".join(lines) for _, lines, name in tails if lines) + "\n"


def _tail(file: Path, lines: int = 80) -> tuple[float, list[str]]:
    """When the file was last written (seconds since the epoch), and its last lines; none where it is gone."""
    with suppress(FileNotFoundError):
        text = file.read_text(encoding="utf-8", errors="replace")
        return file.stat().st_mtime, text.splitlines()[-lines:]
    return 0.0, []
