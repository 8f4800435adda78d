"""Runs that would share verl's weight socket take turns."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from trainer.machine_lock import machine_lock

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import pathlib, sys, time
from trainer.machine_lock import machine_lock
with machine_lock("pid 7, runs/first", print, pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_says_who_it_waits_for_and_starts_when_that_one_was_killed(tmp_path):
    first = holder(tmp_path / "lock")
    said, entered = [], threading.Event()

    def second():
        with machine_lock("second", said.append, tmp_path / "lock"):
            entered.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    try:
        assert not entered.wait(1)
        assert len(said) == 1 and "another run trains on this machine (pid 7, runs/first)" in said[0]
        first.send_signal(signal.SIGKILL)
        assert entered.wait(10)
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
        waiting.join()
    assert (tmp_path / "lock").read_text() == "second"


def test_a_free_lock_is_taken_without_a_word(tmp_path):
    said = []
    for _ in range(2):
        with machine_lock("one", said.append, tmp_path / "lock"):
            pass
    assert said == []


def test_a_lock_that_may_not_be_opened_stops_nothing(tmp_path):
    (tmp_path / "lock").mkdir()
    with machine_lock("one", print, tmp_path / "lock"):
        pass
