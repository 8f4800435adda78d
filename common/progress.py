"""What a person sees while a run goes on: one line per stage, and a live bar within the long ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 15.0
"""Without a terminal a line is printed at most this often."""

console = Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """Prints one line."""
    console.print(text, markup=False, soft_wrap=True)


class Bar:
    """A stage's progress; on a terminal it is redrawn, elsewhere it prints now and then."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.first = title, total, done
        self.began = self.printed = time.monotonic()
        self.progress: Progress | None = None
        self.task = TaskID(0)

    def update(self, done: int, text: str = "") -> None:
        """Shows that `done` of `total` are done, with a short text beside it."""
        if self.progress is not None:
            self.progress.update(self.task, completed=done, text=text)
        elif done >= self.total or time.monotonic() - self.printed >= PLAIN_SECONDS:
            self.printed = time.monotonic()
            say(f"{self.title}: {done}/{self.total}, {self._remaining(done)} {text}".rstrip())

    def _remaining(self, done: int) -> str:
        here = done - self.first
        if done >= self.total or here <= 0:
            return "done" if done >= self.total else "starting"
        seconds = (time.monotonic() - self.began) / here * (self.total - done)
        return f"about {seconds:.0f} s left"


@contextmanager
def bar(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar that lasts as long as the block."""
    shown = Bar(title, total, done)
    if not console.is_terminal:
        say(f"{title}: starting")
        yield shown
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        shown.progress = progress
        shown.task = progress.add_task(title, total=total, completed=done, text="starting")
        yield shown
