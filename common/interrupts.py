"""How a command is asked to end: Ctrl-C and SIGTERM do the same.

Both raise KeyboardInterrupt in the main thread, so that whatever was started is ended and tidied up on the
way out. Batch systems and people ask more than once: what comes while that goes on must not stop it halfway.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE_SECONDS = 60.0
"""How long further signals change nothing: tidying up takes seconds. After it they interrupt again, should
the first one's exception have been lost in a library."""


class Interrupts:
    """The handler of this process's SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.number: int | None = None
        """The signal that came first. Its exception does not tell: Ray raises a new one in its place."""
        self.first = 0.0
        """When it came, or when it last raised."""

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a forked child ends as it would have without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if self.number is not None and now - self.first < PATIENCE_SECONDS:
            return
        self.number, self.first = self.number or number, now
        raise KeyboardInterrupt

    def install(self) -> Interrupts:
        """Takes both signals; one that this process was started to ignore stays ignored."""
        defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        for number, default in defaults.items():
            if signal.getsignal(number) is default:
                signal.signal(number, self)
        return self


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """In the block SIGTERM is kept until its end, and is then handled as before the block.

    For libraries that take the signal below Python, as Ray's C++ part does when it is started, which then
    ends the process with a stack trace, and give it back to nobody when it is ended. Threads that the block
    starts keep it from them for good; processes that are started there by a fork get it. Does nothing
    outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _masks.append(before)
    try:
        yield
    finally:
        _masks.remove(before)
        if handler is not None:  # else it was not Python's, and cannot be set
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_masks: list[set[int]] = []
"""What each open block found blocked."""


def _unblock() -> None:
    if _masks:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks[0])


os.register_at_fork(after_in_child=_unblock)
