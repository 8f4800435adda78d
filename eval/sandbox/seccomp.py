"""A seccomp filter from the lists of `eval.sandbox.system_calls`; needs no privileges."""

import ctypes
import os
import platform
from collections.abc import Collection
from typing import Any

from eval.sandbox.system_calls import ABSENT, ALL_BITS, CHECKED, EXTRA, NONE_OF_BITS, PLAIN, Check

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in what the kernel shows to a filter."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def filter_program(machine: str, allowed: Collection[str] = ()) -> list[Instruction]:
    """The filter as BPF instructions.

    Refuses everything but `PLAIN`, `CHECKED` where the arguments are right, and the calls of `EXTRA` that
    are named in `allowed`. Raises OSError for an unknown machine.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"no system call table for {machine!r}; there is one for {', '.join(_ARCHITECTURES)}")
    column, architecture = _ARCHITECTURES[machine]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_ANSWER, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # numbers of the x32 interface
        program += [(_AT_LEAST, 0, 1, 0x40000000), (_ANSWER, 0, 0, _ERROR | _EPERM)]
    plain = {**PLAIN, **{name: EXTRA[name] for name in allowed}}
    for numbers, answer in ((plain, _ALLOW), (ABSENT, _ERROR | _ENOSYS)):
        for entry in numbers.values():
            if (number := entry[column]) is not None:
                program += [(_EQUAL, 0, 1, number), (_ANSWER, 0, 0, answer)]
    for name, (entry, checks) in CHECKED.items():
        if (number := entry[column]) is not None and name not in allowed:
            block = [instruction for check in checks for instruction in _refuse_unless(check)]
            block.append((_ANSWER, 0, 0, _ALLOW))
            program += [(_EQUAL, 0, len(block), number), *block]
    return [*program, (_ANSWER, 0, 0, _ERROR | _EPERM)]


def _refuse_unless(check: Check) -> list[Instruction]:
    """Goes on where the check holds; the upper half of the argument must be 0, whether it is read or not."""
    argument, how, values = check
    low, high = _ARGUMENTS + 8 * argument, _ARGUMENTS + 8 * argument + 4
    refuse = (_ANSWER, 0, 0, _ERROR | _EPERM)
    block = [(_LOAD, 0, 0, high), (_EQUAL, 1, 0, 0), refuse, (_LOAD, 0, 0, low)]
    if how == NONE_OF_BITS:
        return [*block, (_ANY_BIT, 0, 1, values[0]), refuse]
    if how == ALL_BITS:
        return [*block, (_AND, 0, 0, values[0]), (_EQUAL, 1, 0, values[0]), refuse]
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*block, *tests, refuse]


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


class SeccompFilter:
    """A prepared filter; `apply` puts it on this process, for good."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        instructions = filter_program(platform.machine(), allowed)
        self._array = (_Instruction * len(instructions))(*instructions)
        self._program = _Program(len(instructions), self._array)

    def apply(self) -> None:
        """Raises OSError where the kernel has no seccomp filters."""
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(self._program), 0, 0)


_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: Any) -> None:
    """The system call; raises OSError."""
    padded = [a if not isinstance(a, int) else ctypes.c_ulong(a) for a in arguments]
    if _libc.prctl(ctypes.c_int(option), *padded) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}) failed: {os.strerror(number)}")
