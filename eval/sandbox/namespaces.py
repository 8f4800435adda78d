"""Namespaces of the sandbox's own: other processes, networks and shared memory are not there for its jobs.

Needs a kernel that lets this user make user namespaces; many containers do not.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from typing import NoReturn

from eval.sandbox.seccomp import prctl

_NEW = 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x00020000 | 0x04000000
"""User, process, network, IPC, mount and host name."""
_RECURSIVE, _PRIVATE, _NO_SUID_DEVICES_PROGRAMS = 1 << 14, 1 << 18, 0xE
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> bool:
    """Goes on as the first process of namespaces of its own; False where the kernel refuses them.

    The caller's process stays behind, does nothing but wait, and ends as this one or its own parent does.
    Call it before anything else is started.
    """
    if not _is_possible():
        return False
    parent = os.getppid()
    _unshare()
    pid = os.fork()
    if pid != 0:
        _end_like(pid, parent)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _mount_proc()
    return True


def _is_possible() -> bool:
    """Tried by a process that ends at once: there is no way back. Without `/proc` threads are not counted."""
    pid = os.fork()
    if pid == 0:
        entered = False
        try:
            if _unshare():
                first = os.fork()
                if first == 0:
                    os._exit(0 if _mount_proc() else 1)
                entered = os.waitpid(first, 0)[1] == 0
        finally:
            os._exit(0 if entered else 1)
    return os.waitpid(pid, 0)[1] == 0


def _unshare() -> bool:
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_NEW) != 0:
        return False
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    return True


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _end_like(pid: int, parent: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # the ends of these pipes must be seen
        os.dup2(null, descriptor)
    child = os.pidfd_open(pid)
    while not select.select([child], [], [], 1.0)[0]:
        if os.getppid() != parent:  # the end of this process ends the other
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    os._exit(max(0, os.waitstatus_to_exitcode(status)))


def _mount_proc() -> bool:
    """`/proc` of these namespaces; False where the kernel does not let it be mounted."""
    _libc.mount(b"none", b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None)
    return _libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(_NO_SUID_DEVICES_PROGRAMS), None) == 0
