"""Dead parts of a run and errors of its engines: noticed after the grace, and not before."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from trainer.processes import watch
from trainer.processes.watch import GRACE_SECONDS, SETTLED_SECONDS, EngineErrors, PartsWatch


@pytest.fixture
def clock(monkeypatch):
    state = {"now": 1000.0}
    monkeypatch.setattr(watch.time, "monotonic", lambda: state["now"])
    return state


class Alive(dict):
    """Titles by process id; all were born at second 1000 of the clock unless `born` says otherwise."""

    def __init__(self):
        self.born: dict[int, float] = {}


@pytest.fixture
def parts(monkeypatch, clock):
    """The parts that are alive, by process id."""
    alive = Alive()
    monkeypatch.setattr(
        watch,
        "live_parts",
        lambda: {pid: (title, clock["now"] - alive.born.get(pid, 1000.0)) for pid, title in alive.items()},
    )
    return alive


ENGINE_SETTLED, ACTOR_SETTLED = SETTLED_SECONDS["VLLM::"], SETTLED_SECONDS["ray::"]


@pytest.mark.parametrize(
    "title, is_part",
    [
        ("ray::WorkerDict", True),
        ("ray::WorkerDict.actor_rollout_update", True),
        ("VLLM::EngineCore", True),
        ("ray::vLLMHttpServer.launch_server", True),
        ("ray::IDLE", False),
        ("ray::IDLE_SpillWorker", False),
        ("ray::SPILL_IDLE", False),
        ("ray::RESTORE_x", False),
        ("ray::some_task", False),
        ("ray::", False),
        ("raylet", False),
        ("python", False),
        ("", False),
    ],
)
def test_what_a_part_is(title, is_part):
    assert watch.is_part(title) is is_part


def test_a_vanished_part_is_dead_after_the_grace(clock, parts):
    seen = PartsWatch()
    parts |= {11: "ray::WorkerDict", 12: "VLLM::EngineCore"}
    assert seen.dead() is None
    clock["now"] += ACTOR_SETTLED
    assert seen.dead() is None
    del parts[12]
    clock["now"] += 100  # the time before it was missed does not count
    assert seen.dead() is None
    clock["now"] += GRACE_SECONDS - 0.1
    assert seen.dead() is None
    clock["now"] += 0.1
    assert seen.dead() == "VLLM::EngineCore (pid 12)"


def test_a_part_of_an_earlier_training_may_end_while_the_next_one_begins(clock, parts):
    parts |= {11: "ray::TransferQueueController", 12: "VLLM::EngineCore"}
    seen = PartsWatch.from_now()
    parts[13] = "ray::WorkerDict"
    assert seen.dead() is None
    clock["now"] += ACTOR_SETTLED
    assert seen.dead() is None
    parts.clear()
    assert seen.dead() is None
    clock["now"] += GRACE_SECONDS
    assert seen.dead() == "ray::WorkerDict (pid 13)"


def test_a_part_that_comes_back_starts_the_grace_anew(clock, parts):
    seen = PartsWatch()
    parts[11] = "ray::WorkerDict"
    seen.dead()
    clock["now"] += ACTOR_SETTLED
    seen.dead()
    del parts[11]
    seen.dead()
    clock["now"] += GRACE_SECONDS - 1
    parts[11] = "ray::WorkerDict"
    assert seen.dead() is None
    del parts[11]
    clock["now"] += 2
    assert seen.dead() is None
    clock["now"] += GRACE_SECONDS
    assert seen.dead() == "ray::WorkerDict (pid 11)"


def test_a_helper_that_was_forked_and_ended_is_not_missed(clock, parts):
    seen = PartsWatch()
    parts[11] = "ray::TaskRunner"
    seen.dead()
    clock["now"] += ACTOR_SETTLED - 1
    seen.dead()
    del parts[11]
    for _ in range(3):
        clock["now"] += GRACE_SECONDS
        assert seen.dead() is None


def test_an_engine_that_dies_soon_after_its_start_is_dead_and_its_forked_helper_is_not(clock, parts):
    """On a fast machine an engine serves, and may die, before a third look at it."""
    seen = PartsWatch()
    parts |= {12: "VLLM::EngineCore", 13: "VLLM::EngineCore"}
    clock["now"] += ENGINE_SETTLED
    parts.born[13] = clock["now"] - 0.1  # between fork and exec
    assert seen.dead() is None
    parts.clear()
    assert seen.dead() is None
    clock["now"] += GRACE_SECONDS
    assert seen.dead() == "VLLM::EngineCore (pid 12)"
    del seen.missed[12]
    clock["now"] += GRACE_SECONDS
    seen.settled.discard(12)
    assert seen.dead() is None


def test_parts_that_live_are_never_dead(clock, parts):
    seen = PartsWatch()
    parts[11] = "ray::WorkerDict"
    for _ in range(5):
        assert seen.dead() is None
        clock["now"] += 10 * GRACE_SECONDS
    parts[13] = "ray::TaskRunner"  # a later one
    assert seen.dead() is None


def test_real_processes_below_this_one_by_their_title(clock):
    titles = ["VLLM::Short", "VLLM::EngineCore", "ray::IDLE", "ray::task_function"]
    began = time.perf_counter()
    started = [subprocess.Popen(["bash", "-c", f"exec -a '{title}' sleep 300"]) for title in titles]
    ours = {process.pid for process in started}
    expected = {started[0].pid: "VLLM::Short", started[1].pid: "VLLM::EngineCore"}

    def own(found):  # another test's processes may still be ending
        return {pid: title for pid, title in found.items() if pid in ours}

    try:
        for process, title in zip(started, titles, strict=True):
            while psutil.Process(process.pid).cmdline()[:1] != [title]:
                pass
        seen = PartsWatch()
        seen.dead()
        assert own(seen.seen) == expected
        while not seen.settled >= expected.keys():  # real time: the age is the kernel's
            assert seen.dead() is None
        assert time.perf_counter() - began >= ENGINE_SETTLED - 0.1
        started[0].kill()  # not waited for: a zombie is gone too
        while psutil.Process(started[0].pid).status() != psutil.STATUS_ZOMBIE:
            pass
        seen.dead()
        clock["now"] += GRACE_SECONDS
        assert seen.dead() == f"VLLM::Short (pid {started[0].pid})"
    finally:
        for process in started:
            process.kill()
            process.wait()


# ----------------------------------------------------------------------------------- engine errors

ERROR = "(EngineCore_DP0 pid=44) ERROR 10-02 11:00:00 [core.py:700] {}\n"


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_an_error_counts_after_the_grace(clock, tmp_path):
    engines = EngineErrors(tmp_path)
    assert engines.lasting() is None
    append(tmp_path / "worker-1.out", "INFO fine\n" + ERROR.format("RuntimeError: bad weight") + "more\n")
    assert engines.lasting() is None
    clock["now"] += GRACE_SECONDS - 0.1
    assert engines.lasting() is None
    clock["now"] += 0.1
    assert engines.lasting() == "RuntimeError: bad weight"


def test_what_was_written_before_is_of_an_earlier_stage(clock, tmp_path):
    append(tmp_path / "worker-1.err", ERROR.format("ValueError: an earlier stage"))
    engines = EngineErrors(tmp_path)
    engines.lasting()
    clock["now"] += 2 * GRACE_SECONDS
    assert engines.lasting() is None
    append(tmp_path / "worker-1.err", ERROR.format("KeyError: now"))
    engines.lasting()
    clock["now"] += GRACE_SECONDS
    assert engines.lasting() == "KeyError: now"


def test_the_first_error_is_kept(clock, tmp_path):
    engines = EngineErrors(tmp_path)
    append(
        tmp_path / "worker-1.err", ERROR.format("ValueError: cause") + ERROR.format("KeyError: consequence")
    )
    engines.lasting()
    append(tmp_path / "worker-2.err", ERROR.format("OSError: later"))
    clock["now"] += GRACE_SECONDS
    assert engines.lasting() == "ValueError: cause"


@pytest.mark.parametrize(
    "line, error",
    [
        (
            "(Worker_TP0 pid=3) ERROR 10-02 [x.py:1] torch.OutOfMemoryError: 2 GiB",
            "torch.OutOfMemoryError: 2 GiB",
        ),
        ("(Worker_TP0 pid=3) ERROR 10-02 [x.py:1] OutOfMemoryError: 2 GiB", "OutOfMemoryError: 2 GiB"),
        ("(EngineCore pid=3) ERROR 10-02 [x.py:1] EngineDeadError", "EngineDeadError"),
        ("(EngineCore pid=3) WARNING 10-02 [x.py:1] ValueError: only a warning", None),
        ("ERROR 10-02 [x.py:1] ValueError: of somebody else", None),
        ("(EngineCore pid=3) ERROR 10-02 [x.py:1] Traceback (most recent call last):", None),
    ],
)
def test_what_an_engine_error_looks_like(clock, tmp_path, line, error):
    engines = EngineErrors(tmp_path)
    append(tmp_path / "worker-1.err", line + "\n")
    engines.lasting()
    clock["now"] += GRACE_SECONDS
    assert engines.lasting() == error


def test_other_logs_are_not_read(clock, tmp_path):
    engines = EngineErrors(tmp_path)
    append(tmp_path / "raylet.err", ERROR.format("ValueError: not a worker"))
    engines.lasting()
    clock["now"] += GRACE_SECONDS
    assert engines.lasting() is None


def test_a_line_that_is_still_being_written_is_read_whole_later(clock, tmp_path):
    engines = EngineErrors(tmp_path)
    text = ERROR.format("RuntimeError: bad weight")
    append(tmp_path / "worker-1.err", text[:30])
    engines.lasting()
    append(tmp_path / "worker-1.err", text[30:])
    engines.lasting()
    clock["now"] += GRACE_SECONDS
    assert engines.lasting() == "RuntimeError: bad weight"


def test_a_forked_child_with_its_parents_title_is_no_part_of_its_own():
    program = "import os, time; os.fork() and print(1, flush=True); time.sleep(30)"
    command = ["ray::Forking", "-c", program]
    process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"1\n"
        titles = [title for title, _ in watch.live_parts().values() if title == "ray::Forking"]
        assert titles == ["ray::Forking"]
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
        process.wait()
