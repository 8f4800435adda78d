"""Landlock: which files a process may read, for good. Needs no privileges, but Linux 5.13 or newer.

Everything else of the file system is out of reach: no reading, writing, creating, removing, running. Newer
kernels add rules: no truncation (6.2), no TCP (6.7), no device commands (6.10), and no signals and abstract
sockets to processes outside (6.12).
"""

import ctypes
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on all architectures
_VERSION_QUESTION, _BENEATH_PATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38

_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""By ABI version: all rights on files that the kernel knows, each of which is then refused unless allowed."""
_TCP, _SCOPES = 0b11, 0b11
_TCP_SINCE, _SCOPES_SINCE = 4, 6

_OUT_OF_THE_WAY = 100
"""The lowest descriptor that the rules may have: a forked job uses the first ones for itself."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The ABI version of this kernel's Landlock; 0 where it has none."""
    found = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_QUESTION))
    return max(0, found)


class Landlock:
    """Prepared rules; `apply` puts them on this process, for good.

    readable: files and folders that can be read, with everything in them; those that do not exist are left
        out. Raises OSError where the kernel has no Landlock.
    """

    def __init__(self, readable: Iterable[str | Path]) -> None:
        abi = version()
        if abi == 0:
            raise OSError("this kernel has no Landlock")
        handled = next(_FILE_RIGHTS[known] for known in sorted(_FILE_RIGHTS, reverse=True) if known <= abi)
        ruleset = _Ruleset(handled, _TCP * (abi >= _TCP_SINCE), _SCOPES * (abi >= _SCOPES_SINCE))
        size = 24 if abi >= _SCOPES_SINCE else 16 if abi >= _TCP_SINCE else 8
        made = _checked(_libc.syscall(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0))
        self._ruleset = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
        os.close(made)
        for path in readable:
            self._allow(str(path))

    def _allow(self, path: str) -> None:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            rights = _READ_FILE | _READ_FOLDER if os.path.isdir(path) else _READ_FILE
            rule = _Beneath(rights, parent)
            _checked(_libc.syscall(_ADD_RULE, self._ruleset, _BENEATH_PATH, ctypes.byref(rule), 0))
        finally:
            os.close(parent)

    def apply(self) -> None:
        """For this thread, and what it starts from now on. Forked processes may apply it too, each once."""
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT, self._ruleset, 0))
        os.close(self._ruleset)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
