"""The reaper: nothing of a run outlives it, nothing else is touched."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from tests.helpers.paths import ROOT
from trainer.processes import reaper

TREE = """
import os, signal, subprocess, sys, time
depth, stubborn = int(sys.argv[1]), sys.argv[2] == "stubborn"
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
if depth:
    below = [sys.executable, "-c", sys.argv[3], str(depth - 1), *sys.argv[2:]]
    subprocess.Popen(below, start_new_session=True)
time.sleep(300)
"""
"""A process, its child and its grandchild, each in a session of its own; each prints its id."""


def start_tree(mark: str | None, manner: str) -> tuple[subprocess.Popen, list[int]]:
    environment = {key: value for key, value in os.environ.items() if key != reaper.MARK}
    if mark is not None:
        environment[reaper.MARK] = mark
    command = [sys.executable, "-c", TREE, "2", manner, TREE]
    top = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return top, [int(top.stdout.readline()) for _ in range(3)]


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_gone(pids: list[int], seconds: float = 20) -> list[int]:
    """Those that are still alive when all are gone or the time is over."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.fixture
def mark():
    return uuid.uuid4().hex


@pytest.fixture
def tree():
    """Starts trees, and ends at the end of the test what is left of them."""
    started: list[tuple[subprocess.Popen, list[int]]] = []

    def start(mark, manner="mild"):
        started.append(start_tree(mark, manner))
        return started[-1][1]

    yield start
    for top, pids in started:
        for pid in filter(alive, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        top.stdout.close()
        top.wait()


def test_marked_processes_are_found_through_all_sessions(tree, mark):
    pids = tree(mark)
    tree(mark + "x")
    tree(None)
    assert sorted(reaper.marked_processes(mark)) == sorted(pids)
    assert len({os.getsid(pid) for pid in pids}) == 3


@pytest.fixture
def guard(mark, tmp_path):
    """A reaper for the mark, and for a folder."""
    (tmp_path / "temporary").mkdir()
    process = reaper.start(mark, tmp_path / "temporary")
    yield process
    process.stdin.close()
    process.wait(timeout=20)


def test_a_closed_pipe_ends_the_whole_tree_and_nothing_else(tree, mark, guard):
    marked, others, unmarked = tree(mark), tree(mark + "x"), tree(None)
    time.sleep(0.3)
    assert guard.poll() is None and all(map(alive, marked))  # it waits
    guard.stdin.close()
    assert wait_gone(marked) == []
    assert guard.wait(timeout=20) == 0
    assert all(map(alive, others)) and all(map(alive, unmarked))


def test_a_process_that_ignores_the_request_is_killed(tree, mark):
    pids = tree(mark, "stubborn")
    began = time.monotonic()
    assert sorted(reaper.end_marked(mark, patience_seconds=0.5)) == sorted(pids)
    assert time.monotonic() - began >= 0.5
    assert [pid for pid in pids if alive(pid)] == []


def test_a_process_may_end_by_itself_when_asked(mark, tmp_path):
    """SIGTERM comes first, so that what has to be written can be written."""
    code = (
        "import signal, sys, time, pathlib\n"
        "def end(*_): time.sleep(0.3); pathlib.Path(sys.argv[1]).write_text('tidy'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "note")],
        env={**os.environ, reaper.MARK: mark},
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    reaper.end_marked(mark, patience_seconds=10)
    process.stdout.close()
    assert process.wait(timeout=5) == 0
    assert (tmp_path / "note").read_text() == "tidy"


NAMELESS = """
import subprocess, sys, time
below = subprocess.Popen([sys.executable, "-c", sys.argv[1], "1", "stubborn", sys.argv[1]], env={})
time.sleep(300)
"""
"""A marked process whose child and grandchild have no environment, as if a title had been written over it."""


@pytest.fixture
def nameless(mark):
    """The process of `NAMELESS`, and the ids of its child and grandchild; ends at the end what is left."""
    top = subprocess.Popen(
        [sys.executable, "-c", NAMELESS, TREE], env={**os.environ, reaper.MARK: mark},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = [int(top.stdout.readline()) for _ in range(2)]
    yield top, pids
    top.stdout.close()
    for pid in filter(alive, (*pids, top.pid)):
        os.kill(pid, signal.SIGKILL)
    top.wait()


def test_a_descendant_that_lost_its_mark_ends_too(mark, nameless):
    """Ray's agents and vLLM's engine: `setproctitle` writes over the environment."""
    top, (child, grandchild) = nameless
    assert reaper.marked_processes(mark) == [top.pid]
    ended = reaper.end_marked(mark, patience_seconds=0.5)  # outlives its parent: SIGTERM is ignored
    assert sorted(ended) == sorted([top.pid, child, grandchild])
    assert not alive(child) and not alive(grandchild)


def test_a_process_known_from_earlier_ends_though_nothing_ties_it_to_the_run_any_more(mark, nameless):
    top, pids = nameless
    known = reaper.processes_of(mark)
    top.kill()
    top.wait()
    assert reaper.end_marked(mark, patience_seconds=0.2) == [] and all(map(alive, pids))
    assert sorted(reaper.end_marked(mark, known=known, patience_seconds=0.2)) == sorted(pids)
    assert not any(map(alive, pids))


def test_the_guard_remembers_a_descendant_whose_parent_went_first(mark, nameless, guard):
    """The kernel kills Ray's raylet with the run's process, before the guard can look at its children."""
    top, pids = nameless
    time.sleep(reaper.LOOK_SECONDS + 1)
    top.kill()
    top.wait()
    guard.stdin.close()
    assert wait_gone(pids) == []
    assert guard.wait(timeout=20) == 0


def test_another_process_with_the_id_of_one_that_has_ended_is_let_alone(tree, mark):
    pid = tree(None)[0]
    assert reaper.end_marked(mark, known=frozenset({reaper.Process(pid, "1")})) == []
    assert alive(pid)


def test_spared_processes_live(tree, mark):
    first, second, third = tree(mark)
    assert sorted(reaper.end_marked(mark, spare=frozenset({first}), patience_seconds=3)) == sorted(
        [second, third]
    )
    assert alive(first) and wait_gone([second, third], 1) == []


def test_no_marked_process_is_no_work(mark):
    assert reaper.end_marked(mark) == []


def test_the_guard_is_not_marked_itself(mark, monkeypatch, tmp_path):
    monkeypatch.setenv(reaper.MARK, mark)
    guard = reaper.start(mark, tmp_path / "temporary")
    try:
        time.sleep(0.2)
        assert guard.pid not in reaper.marked_processes(mark)
        assert os.getsid(guard.pid) == guard.pid  # a signal to the terminal's group passes it by
    finally:
        guard.stdin.close()
        guard.wait(timeout=20)


PARENT = """
import os, subprocess, sys, time
from trainer.processes import reaper
reaper.start(sys.argv[1], "/nowhere")
os.environ[reaper.MARK] = sys.argv[1]
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], "2", sys.argv[3], sys.argv[2]])
time.sleep(300)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_parent_leaves_nothing(mark, how):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, mark, TREE, "stubborn"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )  # fmt: skip
    pids = [int(parent.stdout.readline()) for _ in range(3)]
    try:
        assert all(map(alive, pids))
        parent.send_signal(how)
        parent.wait(timeout=10)
        assert wait_gone(pids) == []
    finally:
        parent.stdout.close()
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------------------------- files

MAKER = """
import sys, time
from _multiprocessing import SemLock
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
names = [name for name in sys.argv[1:] if not name.startswith("sem.")]
blocks = [SharedMemory(name, create=True, size=64) for name in names]
locks = [SemLock(1, 1, 1, "/" + name[4:], False) for name in sys.argv[1:] if name not in names]
for block in blocks:
    resource_tracker.unregister(block._name, "shared_memory")
print("made", flush=True)
time.sleep(300)
"""


@pytest.fixture
def block_maker():
    """Starts processes that make blocks of shared memory and hold them until they are killed."""
    processes, made = [], []

    def start(mark, *names):
        made.extend(Path("/dev/shm") / name for name in names)
        environment = {key: value for key, value in os.environ.items() if key != reaper.MARK}
        environment |= {} if mark is None else {reaper.MARK: mark}
        command = [sys.executable, "-c", MAKER, *names]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "made\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    for path in made:
        path.unlink(missing_ok=True)


def in_memory(*names):
    return [name for name in names if (Path("/dev/shm") / name).exists()]


def test_files_of_a_run_that_was_killed_go_with_it_and_all_others_stay(
    tree, mark, guard, block_maker, tmp_path
):
    folder = tmp_path / "temporary"
    (folder / "session").mkdir()
    (folder / "session" / "log").write_text("x")
    short, other, ours = f"verl_weights_{mark}", f"verl_weights_{mark}x", f"psm_{mark[:8]}"
    semaphore, others_semaphore = f"sem.mp-{mark[:8]}", f"sem.mp-{mark[:8]}x"
    reaper.note(folder, f"{reaper.SHARED_MEMORY}{short}")
    block_maker(mark, ours, semaphore)
    live = block_maker(None, other, f"{ours}x", others_semaphore)
    time.sleep(reaper.LOOK_SECONDS + 1)  # it sees who has them open
    block_maker(mark, short)  # it need not see this one
    guard.stdin.close()
    guard.wait(timeout=20)
    assert in_memory(short, ours, semaphore) == []
    stays = [other, f"{ours}x", others_semaphore]
    assert in_memory(*stays) == stays
    assert not folder.exists() and tmp_path.exists()
    live.kill()
    live.wait()
    reaper.remove_files("/nowhere")
    assert in_memory(other, f"{ours}x") == [other, f"{ours}x"]  # nobody has them open, nobody noted them


def test_a_noted_file_stays_while_it_is_open_and_a_half_written_note_is_none(mark, block_maker, tmp_path):
    name, other = f"verl_weights_{mark}", f"psm_{mark[:8]}"
    live = block_maker(None, name, other)
    folder = tmp_path / "folder"
    for _ in range(2):
        folder.mkdir()
        reaper.note(folder, f"{reaper.SHARED_MEMORY}{name}")
        with (folder / reaper.NOTED).open("a") as file:
            file.write(f"{reaper.SHARED_MEMORY}{other}")  # killed before the end of the line
        reaper.remove_files(str(folder))
        assert in_memory(name) == ([name] if live.poll() is None else [])
        live.kill()
        live.wait()
    assert in_memory(other) == [other]


def test_what_cannot_be_noted_is_no_error(tmp_path):
    reaper.note(tmp_path / "gone", "/dev/shm/x")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_reaper_outlives_a_signal_to_every_process_of_a_job(tree, mark, guard, number):
    marked = tree(mark)
    time.sleep(0.5)  # it has started
    guard.send_signal(number)
    time.sleep(0.2)
    assert guard.poll() is None and all(map(alive, marked))
    guard.stdin.close()
    assert wait_gone(marked) == []


def test_a_socket_that_nobody_has_bound_goes_and_a_live_one_stays(mark, tmp_path):
    bound, left = (socket.socket(socket.AF_UNIX) for _ in range(2))
    bound.bind(str(tmp_path / "bound.sock"))
    left.bind(str(tmp_path / "left.sock"))
    left.close()
    (tmp_path / "folder").mkdir()
    reaper.note(tmp_path / "folder", f"{tmp_path}/*.sock")
    reaper.remove_files(str(tmp_path / "folder"))
    assert [path.name for path in tmp_path.iterdir()] == ["bound.sock"]
    bound.close()
