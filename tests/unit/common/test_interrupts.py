"""SIGTERM and Ctrl-C raise once, and what comes while the process tidies up changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from common import interrupts
from common.interrupts import Interrupts
from tests.helpers.paths import ROOT


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of a process that has just started; those of the tests come back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_and_the_next_ones_do_not(handlers, number):
    taken = Interrupts().install()
    assert taken.number is None
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        time.sleep(5)
    for again in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), again)
        time.sleep(0.05)
    assert taken.number == number


def test_after_a_time_a_signal_interrupts_again(handlers, monkeypatch):
    """The first one's exception may have been swallowed."""
    monkeypatch.setattr(interrupts, "PATIENCE_SECONDS", 0.1)
    Interrupts().install()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        time.sleep(0.2)


def test_what_was_ignored_stays_ignored(handlers):
    """A shell starts its background jobs so, and `nohup` other commands."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Interrupts().install()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)


FORK = """
import os, time
from common.interrupts import Interrupts
Interrupts().install()
if child := os.fork():
    print(child, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os.kill(os.getpid(), 15)
    time.sleep(60)
"""


def test_a_forked_child_dies_of_sigterm_as_ever():
    ended = subprocess.run(
        [sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert ended.stdout.split()[1] == "-15" and ended.stderr == ""


WAITING = """
import ctypes, os, signal, subprocess, sys, time
from common.interrupts import Interrupts, sigterm_waits
Interrupts().install()
take = ctypes.CDLL(None).signal
take.argtypes = [ctypes.c_int, ctypes.c_void_p]
try:
    with sigterm_waits():
        for _ in range(3):
            take(signal.SIGTERM, 0)  # below Python, the default again: the process would end
            time.sleep(0.1)
        child = subprocess.Popen(["sleep", "60"])
        if "asked" in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        print("block ended", flush=True)
    print("went on", flush=True)
    child.terminate()
    print(child.wait(10), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
except KeyboardInterrupt:
    child.kill()
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    "arguments, said",
    [((), ["block ended", "went on", "-15", "interrupted"]), (("asked",), ["block ended", "interrupted"])],
)
def test_sigterm_waits_for_a_library_that_takes_it_below_python(arguments, said):
    """What is started meanwhile gets it; afterwards it is handled as before."""
    ended = subprocess.run(
        [sys.executable, "-c", WAITING, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.stdout.split("\n")[:-1], ended.returncode) == (said, 0), ended.stderr
