"""When a training counts as stalled, what is said of its parts, and what becomes of the run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from pydantic import ValidationError

from configs.blocks.hardware import Stall
from tests.helpers.messages import refuses, says
from trainer import run as run_module
from trainer.processes.stall import StallWatch, activity, limit_seconds
from trainer.processes.watch import PartsWatch

SETTINGS = Stall(after=4, at_least_seconds=20, first_step_seconds=300)


@pytest.mark.parametrize(
    "steps, limit",
    [
        ([], 300),  # the usual time is not known yet
        ([3.0], 20),  # 4 times 3 is less than the least
        ([10.0], 40),
        ([10.0, 10.0, 100.0], 40),  # a step that took long once is not the usual one
        ([10.0, 20.0], 60),
    ],
)
def test_the_limit_is_a_multiple_of_the_usual_step(steps, limit):
    assert limit_seconds(SETTINGS, steps) == limit


def test_a_multiple_of_one_is_refused():
    with refuses("after", "greater than 1", error=ValidationError):
        Stall(after=1)


@pytest.fixture
def clock():
    return {"now": 1000.0}


@pytest.fixture
def watch(clock):
    return StallWatch(SETTINGS, lambda: "busy: ray::A", clock=lambda: clock["now"])


def looks(watch, clock, *moments):
    """What is said at each (seconds, steps done by then)."""
    said = []
    for seconds, done in moments:
        clock["now"] = 1000.0 + seconds
        said.append(watch.look(done))
    return said


def test_a_stall_is_said_once_and_again_after_a_step(watch, clock):
    said = looks(watch, clock, (200, 0), (250, 1), (260, 2), (270, 3), (309, 3), (311, 3), (400, 3))
    assert said[:5] == [None] * 5 and said[6] is None
    assert said[5] == "stalled: no step for 41 s, and one usually takes 10.0 s; busy: ray::A"
    again = looks(watch, clock, (401, 4), (440, 4), (442, 4), (500, 4))
    # the long step counts among the others: the median is still 10
    assert again[:2] == [None, None] and "no step for 41 s" in again[2] and again[3] is None


def test_without_two_steps_the_first_ones_limit_holds(watch, clock):
    said = looks(watch, clock, (300, 0), (301, 0), (310, 1), (610, 1), (611, 1))
    assert [one is None for one in said] == [True, False, True, True, False]
    says(said[1], "no step within 301 s of the start")
    says(said[4], "no step within 301 s of the first")


def test_steps_that_come_together_share_their_time(watch, clock):
    looks(watch, clock, (50, 1), (80, 4))
    assert watch.durations == [10.0]


# --------------------------------------------------------------------------------- what the parts do


def part(title: str, program: str) -> subprocess.Popen:
    command = [title, "-c", f"print(flush=True)\n{program}"]
    process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"\n"
    return process


@pytest.fixture
def parts():
    processes = [
        part("ray::Busy", "while True: pass"),
        part("ray::Idle", "import time; time.sleep(60)"),
        part("ray::Idle", "import time; time.sleep(60)"),
        part("VLLM::EngineCore", "import time; time.sleep(60)"),
        part("other", "while True: pass"),
    ]
    processes[3].send_signal(signal.SIGSTOP)
    yield [psutil.Process(process.pid) for process in processes]
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_parts_are_busy_idle_or_stopped(parts):
    assert activity(parts) == "stopped: VLLM::EngineCore; busy: ray::Busy; idle: 2 x ray::Idle"
    assert activity([]) == "no part of the run is there"


# ----------------------------------------------------------------------------------------- the run


class Metrics:
    """A training that makes three quick steps and then none."""

    def __init__(self):
        self.began, self.signs = time.monotonic(), 0

    def read(self):
        self.signs = min(3, int((time.monotonic() - self.began) / 0.05))

    def patience_factor(self) -> float:
        return 1.0


@pytest.fixture
def stalling(monkeypatch):
    """Runs `wait` on that training until it ends, or for two seconds; returns what was said."""
    import ray

    said, ended = [], []
    monkeypatch.setattr(run_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(run_module, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(run_module, "say", said.append)
    monkeypatch.setattr(ray, "kill", ended.append)
    monkeypatch.setattr(ray, "get", lambda result: None)

    def stalling(action):
        metrics = Metrics()

        def waited(results, timeout):
            time.sleep(timeout)
            return (results, []) if time.monotonic() - metrics.began > 2 else ([], results)

        monkeypatch.setattr(ray, "wait", waited)
        settings = Stall(after=3, at_least_seconds=0.5, action=action)
        watch = StallWatch(settings, lambda: "stopped: VLLM::EngineCore")
        engines, parts = SimpleNamespace(lasting=lambda: None), PartsWatch.from_now()
        try:
            run_module.wait(("runner", "result"), metrics, parts, engines, None, watch)
        finally:
            assert ended == ["runner"]
        return said

    return stalling


def test_a_stall_is_a_line_and_the_training_goes_on(stalling):
    (line,) = stalling("warn")
    says(line, "stalled", "no step for", "usually takes", "stopped: VLLM::EngineCore")


def test_a_stall_ends_the_training_if_asked(stalling):
    with refuses("stalled", "stopped: VLLM::EngineCore", error=RuntimeError):
        stalling("stop")


def test_hardware_has_the_settings(tmp_path: Path):
    from configs.schema import Hardware

    assert Hardware().stall == Stall(after=10, at_least_seconds=600, first_step_seconds=3600, action="warn")
    assert Hardware(stall={"action": "stop"}).stall.action == "stop"


def test_what_takes_longer_than_a_step_is_waited_for():
    now = [0.0]
    watch = StallWatch(Stall(after=3, at_least_seconds=30), lambda: "idle: x", clock=lambda: now[0])
    for done in (1, 2, 3):
        now[0] += 20.0
        assert watch.look(done) is None
    now[0] += 61.0
    assert watch.look(3, factor=2.0) is None
    now[0] += 60.0
    assert watch.look(3, factor=2.0) is not None
