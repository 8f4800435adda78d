"""The system calls that an untrusted program may make: their numbers on x86_64 and aarch64, None for none.

An allow list: what is not here, and what a later kernel adds, is refused.
"""

import os

Numbers = tuple[int | None, int | None]

PLAIN: dict[str, Numbers] = {
    # what is open already
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "sendfile": (40, 71), "fadvise64": (221, 223),
    # looking at files and folders
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "umask": (95, 166),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "mincore": (27, 232), "msync": (26, 227), "get_mempolicy": (239, 236),
    "membarrier": (324, 283),
    # threads of its own
    "futex": (202, 98), "futex_waitv": (449, 449), "set_robust_list": (273, 99), "set_tid_address": (218, 96),
    "rseq": (334, 293), "arch_prctl": (158, None), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getscheduler": (145, 120), "sched_getparam": (143, 121), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "getcpu": (309, 168), "exit": (60, 93), "exit_group": (231, 94),
    # its own signals and time
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, None), "alarm": (37, None),
    "setitimer": (38, 103), "getitimer": (36, 102), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153),
    # waiting, and channels within the process
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd": (284, None), "eventfd2": (290, 19),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "signalfd4": (289, 74), "pipe": (22, None),
    "pipe2": (293, 59), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockopt": (55, 209),
    "getsockname": (51, 204), "getpeername": (52, 205), "wait4": (61, 260), "waitid": (247, 95),
    # who and where it is
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "getpriority": (140, 141), "getrlimit": (97, 163), "getrusage": (98, 165),
    "sysinfo": (99, 179), "uname": (63, 160), "capget": (125, 90), "getrandom": (318, 278),
}  # fmt: skip
"""Allowed whatever their arguments."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_THREAD, _NEW_NAMESPACES = 0x00010000, 0x7E020080
_STREAM_PAIRS = (0x1, 0x801, 0x80001, 0x80801)
"""SOCK_STREAM, with or without SOCK_NONBLOCK and SOCK_CLOEXEC."""
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: none that sends signals or locks."""
_OWN_NAME = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""

ONE_OF, NONE_OF_BITS, ALL_BITS = "one of", "none of the bits", "all bits"
Check = tuple[int, str, tuple[int, ...]]
"""Argument, how it is tested, and with what."""

CHECKED: dict[str, tuple[Numbers, tuple[Check, ...]]] = {
    "open": ((2, None), ((1, NONE_OF_BITS, (_WRITING,)),)),
    "openat": ((257, 56), ((2, NONE_OF_BITS, (_WRITING,)),)),
    "clone": ((56, 220), ((0, ALL_BITS, (_THREAD,)), (0, NONE_OF_BITS, (_NEW_NAMESPACES,)))),
    "fcntl": ((72, 25), ((1, ONE_OF, _DESCRIPTOR_COMMANDS),)),
    "ioctl": ((16, 29), ((1, ONE_OF, _TERMINAL_QUESTIONS),)),
    "prctl": ((157, 167), ((0, ONE_OF, _OWN_NAME),)),
    "prlimit64": ((302, 261), ((0, ONE_OF, (0,)), (2, ONE_OF, (0,)))),
    "socketpair": ((53, 199), ((0, ONE_OF, (1,)), (1, ONE_OF, _STREAM_PAIRS))),
    "sendto": ((44, 206), ((4, ONE_OF, (0,)),)),
}
"""Allowed where every check holds: files only to be read, `clone` only for threads, limits only to be asked
for, socket pairs of the process alone."""

ABSENT: dict[str, Numbers] = {"clone3": (435, 435), "openat2": (437, 437)}
"""Reported as unknown to the kernel: their arguments lie in memory, where a filter cannot look, and the C
library then takes the older call."""

EXTRA: dict[str, Numbers] = {
    "setrlimit": (160, 164), "prlimit64": (302, 261), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlinkat": (263, 35),
}  # fmt: skip
"""Calls that a user of the filter may allow by name."""
