"""How a command is asked to end: Ctrl-C and SIGTERM do the same.

Both raise KeyboardInterrupt in the main thread, so that whatever was started is ended and tidied up on the
way out. Batch systems and people ask more than once: what comes while that goes on must not stop it halfway.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    """In the block SIGTERM waits for its end, and is then handled as before the block.

    For libraries that take the signal below Python: Ray's C++ part does when it is started, and would end the
    process with a stack trace; when it is ended it leaves the system's default. Masking the signal would not
    do, since any other thread gets it then. Does nothing outside the main thread; without a handler in Python
    nothing waits.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    came: list[FrameType | None] = []
    with ExitStack() as kept:
        kept.callback(signal.signal, signal.SIGTERM, handler)
        if callable(handler):
            signal.signal(signal.SIGTERM, lambda _number, frame: came.append(frame))
            kept.enter_context(_kept_below_python(signal.SIGTERM))
        try:
            yield
        finally:
            kept.close()
            if came and callable(handler):
                handler(signal.SIGTERM, came[0])


SIGACTION_BYTES = 1024
"""More than any system's `struct sigaction`, which is read and written as it is."""
KEEP_SECONDS = 0.002


@contextmanager
def _kept_below_python(number: int) -> Iterator[None]:
    """The C library's handler of the signal, Python's own, comes back at once when a library replaces it."""
    sigaction = ctypes.CDLL(None).sigaction
    kept, done = ctypes.create_string_buffer(SIGACTION_BYTES), threading.Event()
    sigaction(number, None, kept)

    def keep() -> None:
        while not done.wait(KEEP_SECONDS):
            sigaction(number, kept, None)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
