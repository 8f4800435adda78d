"""Takes from a process, for good, what an untrusted program must not do: a seccomp filter.

Needs no privileges, but Linux with seccomp filters on x86_64 or aarch64. A confined process cannot
start processes or programs, signal others, open sockets or other channels, create, write, rename or
remove files (it can make and remove empty folders), or raise its limits. It can start threads, read files
and use what is open already.
"""

import ctypes
import os
import platform
import signal

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_AT_REMOVEDIR = 0x200

# System call numbers: (x86_64, aarch64); None where the architecture has no such call.
_DENIED = {
    # other processes and programs
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    # network and other channels
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "keyctl": (250, 219), "add_key": (248, 217), "inotify_init1": (294, 26),
    # the machine and one's own limits
    "setrlimit": (160, 164), "prctl": (157, 167), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "sethostname": (170, 161),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "setuid": (105, 146), "setgid": (106, 144),
    # files: nothing can be created, written, renamed or removed
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "unlink": (87, None), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "mknod": (133, None), "mknodat": (259, 33),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
}  # fmt: skip
_ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
_CONDITIONAL = {
    "open": (2, None), "openat": (257, 56), "unlinkat": (263, 35), "clone": (56, 220),
    "prlimit64": (302, 261),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def filter_program(machine, allowed=()):
    """The seccomp filter as BPF instructions (code, jump if true, jump if false, constant).

    Everything is allowed but what is listed above, less the calls named in `allowed`. Raises OSError for
    an unknown machine.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"no system call table for {machine!r}; there is one for {', '.join(_ARCHITECTURES)}")
    column, audit_arch = _ARCHITECTURES[machine]
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, errno = 0x7FFF0000, 0x80000000, 0x00050000
    offset_number, offset_arch = 0, 4

    def argument(index):
        return (load, 0, 0, 16 + 8 * index)

    program = [
        (load, 0, 0, offset_arch),
        (equal, 1, 0, audit_arch),
        (answer, 0, 0, kill),
        (load, 0, 0, offset_number),
    ]
    if machine == "x86_64":  # the x32 numbers would pass by the list
        program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, errno | _EPERM)]
    for table, error in ((_DENIED, _EPERM), (_ABSENT, _ENOSYS)):
        numbers = (entry[column] for name, entry in table.items() if name not in allowed)
        for number in numbers:
            if number is not None:
                program += [(equal, 0, 1, number), (answer, 0, 0, errno | error)]
    # (call, argument to test, its bits, allowed if any bit is set): clone only for threads, unlinkat only
    # for folders, prlimit64 only to read, open only to read
    conditions = (
        ("clone", 0, _CLONE_THREAD, True),
        ("unlinkat", 2, _AT_REMOVEDIR, True),
        ("prlimit64", 2, 0xFFFFFFFF, False),
        ("open", 1, _WRITE_FLAGS, False),
        ("openat", 2, _WRITE_FLAGS, False),
    )
    for name, index, bits, allowed_if_set in conditions:
        number = _CONDITIONAL[name][column]
        if number is not None and name not in allowed:
            deny = errno | _EPERM
            verdicts = (allow, deny) if allowed_if_set else (deny, allow)
            program += [(equal, 0, 4, number), argument(index), (any_bit, 0, 1, bits)]
            program += [(answer, 0, 0, verdicts[0]), (answer, 0, 0, verdicts[1])]
    return [*program, (answer, 0, 0, allow)]


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


class Confinement:
    """A prepared seccomp filter; `apply` puts it on this process, for good.

    allowed: names of calls of the tables above that stay possible.
    """

    def __init__(self, allowed=()):
        instructions = filter_program(platform.machine(), allowed)
        self._array = (_Instruction * len(instructions))(*instructions)
        self._program = _Program(len(instructions), self._array)
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def apply(self):
        """Raises OSError where the kernel has no seccomp filters."""
        self._call(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self._call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(self._program), 0, 0)

    def die_with_parent(self):
        """Have the kernel kill this process when its parent ends."""
        self._call(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _call(self, option, *arguments):
        pad = [a if not isinstance(a, int) else ctypes.c_ulong(a) for a in arguments]
        if self._prctl(ctypes.c_int(option), *pad) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}) failed: {os.strerror(number)}")
