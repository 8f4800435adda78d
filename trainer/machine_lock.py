"""One training at a time on a machine that starts its own Ray.

verl sends weights to its rollout engine through a socket in /tmp whose name holds Ray's job id. The first job
of every cluster has the same id, so two runs that each start a cluster would read each other's weights, or
hang. Runs that share one cluster (`hardware.ray_address`) have job ids of their own and need no lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = Path("/tmp/protege-training.lock")


@contextmanager
def machine_lock(owner: str, on_wait: Callable[[str], None], path: Path = LOCK) -> Iterator[None]:
    """Holds the machine's lock, which the kernel releases however this process ends.

    `owner` tells others who holds it; `on_wait` gets one line where this process has to wait. Where the lock
    file may not be opened there is no lock.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            os.chmod(path, 0o666)  # whatever the umask: other users' runs take their turn too
        _take(number, on_wait)
        os.ftruncate(number, 0)
        os.pwrite(number, owner.encode(), 0)
        yield
    finally:
        os.close(number)


def _take(number: int, on_wait: Callable[[str], None]) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(number, 1000, 0).decode(errors="replace")
        on_wait(
            f"waiting: another run trains on this machine ({holder}); to train at the same time, give both "
            "the same Ray cluster (hardware.ray_address)"
        )
        fcntl.flock(number, fcntl.LOCK_EX)
