"""Takes from a process, for good, what an untrusted program must not do. Needs no privileges.

Landlock first: of all files only the interpreter's own can be read, and nothing can be written. Then a
seccomp filter of allowed system calls: no other process can be started, signalled or looked into, no socket
opened, no limit raised. Linux on x86_64 or aarch64; without Landlock (before 5.13) files stay readable, which
`protege doctor` says.
"""

import ctypes
import os
import signal
import sys
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path

from eval.sandbox import landlock
from eval.sandbox.seccomp import SeccompFilter, prctl

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4

_LIBRARIES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random",
)  # fmt: skip


def readable_paths() -> list[str]:
    """What Python and its packages are made of, and nothing of the user's."""
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own |= {str(Path(root) / "lib") for root in (sys.prefix, sys.base_prefix)}
    return sorted(own) + list(_LIBRARIES)


class Confinement:
    """Prepared restrictions; `apply` puts them on this process, for good.

    allowed: names of calls of `system_calls.EXTRA` that stay possible.
    readable: more files and folders that can be read.
    """

    def __init__(self, allowed: Collection[str] = (), readable: Sequence[str] = ()) -> None:
        files = [*readable_paths(), *readable]
        self._files = landlock.Landlock(files) if landlock.version() > 0 else None
        self._calls = SeccompFilter(allowed)

    def apply(self) -> None:
        """Raises OSError where the kernel has no seccomp filters."""
        _drop_capabilities()
        if self._files is not None:
            self._files.apply()
        self._calls.apply()

    def die_with(self, parent: int) -> None:
        """Have the kernel kill this process when its parent, which has this id, ends or has ended."""
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def hide_memory() -> None:
    """Let no process without privileges look into this one, nor into those that are forked from it."""
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAPABILITIES_VERSION = 0x20080522
"""Of two 32-bit words each for effective, permitted and inheritable ones."""


def _drop_capabilities() -> None:
    """Root's privileges, also those within a namespace: root is then a user like another."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = _CapabilityHeader(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(none)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset failed: {os.strerror(number)}")
