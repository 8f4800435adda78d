"""Watchers of the nodes of a joined cluster: as an object of this process, and from the command's side."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import uuid
from types import SimpleNamespace

import pytest
import ray

from common.errors import ConfigError
from common.processes import WARM_PYTHON
from trainer.processes import nodes, reaper, watch
from trainer.processes.nodes import Nodes, NodeWatcher
from trainer.processes.watch import GRACE_SECONDS

JOB = "02000000"


def started(mark: str, title: str) -> subprocess.Popen:
    """A marked process, outside of this process's descendants as far as the mark goes, with a title."""
    code = "import sys, time; print(flush=True); time.sleep(120)"
    process = subprocess.Popen(
        [title, "-c", code],
        executable=sys.executable,
        env={**os.environ, reaper.MARK: mark},
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    return process


@pytest.fixture
def mark():
    mark = uuid.uuid4().hex
    yield mark
    reaper.end_marked(mark, patience_seconds=0.2)


@pytest.fixture
def watcher(mark, tmp_path):
    watcher = NodeWatcher(mark, JOB, tmp_path / "temporary", tmp_path)
    yield watcher
    watcher.reaper.stdin.close()
    watcher.reaper.wait(10)


def test_a_watcher_tells_what_is_missing(watcher, tmp_path):
    assert watcher.missing([str(tmp_path), str(tmp_path / "gone"), "/"]) == [str(tmp_path / "gone")]


def test_a_watcher_notices_a_dead_part_of_its_own_run_alone(watcher, mark, monkeypatch):
    now = {"seconds": time.monotonic()}
    monkeypatch.setattr(watch, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: now["seconds"]}))
    monkeypatch.setattr(watch, "SETTLED_SECONDS", {"VLLM::": 0.0, "ray::": 0.0})
    ours, theirs = started(mark, "ray::Ours"), started(uuid.uuid4().hex, "ray::Theirs")
    try:
        assert watcher.problem() is None
        for process in (ours, theirs):
            process.kill()
            process.wait()
        assert watcher.problem() is None
        now["seconds"] += GRACE_SECONDS
        assert watcher.problem() == f"ray::Ours (pid {ours.pid}) died"
        watcher.begin()
        assert watcher.problem() is None, "what died in an earlier training does not count"
    finally:
        theirs.kill()
        ours.stdout.close()
        theirs.stdout.close()


def test_a_watcher_reads_the_logs_of_its_job(watcher, tmp_path, monkeypatch):
    (tmp_path / f"worker-a-{JOB}-1.out").write_text(
        "(EngineCore pid=3) ERROR 11-26 16:30:00 [x.py:1] ValueError: of the engine\n"
    )
    (tmp_path / f"worker-a-{JOB}-1.err").write_text("KeyError: last\n")
    (tmp_path / "worker-b-01000000-1.err").write_text("KeyError: of another job\n")
    assert watcher.engine_error() == "ValueError: of the engine"
    assert watcher.problem() is None, "the trainer's own message may follow"
    now = time.monotonic()
    monkeypatch.setattr(watch.time, "monotonic", lambda: now + GRACE_SECONDS)
    assert watcher.problem() == "a vLLM engine failed: ValueError: of the engine"
    assert watcher.newest_error()[1] == "KeyError: last"
    assert "another job" not in watcher.log_text()


def test_the_end_of_a_watcher_ends_the_runs_processes_on_its_node(mark, tmp_path):
    """The reaper is no child of the watcher: a worker of Ray kills its children when it ends."""
    left = started(mark, "ray::Left")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom trainer.processes.nodes import NodeWatcher\n"
        f"watcher = NodeWatcher({mark!r}, {JOB!r}, Path({str(tmp_path / 't')!r}), Path({str(tmp_path)!r}))\n"
        "watcher.reaper.wait(10)\nprint(flush=True)\ntime.sleep(120)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert not subprocess.run(["pgrep", "-P", str(holder.pid)], capture_output=True).stdout
    time.sleep(0.5)
    assert left.poll() is None
    holder.kill()
    holder.wait()
    assert left.wait(30) != 0
    for process in (left, holder):
        process.stdout.close()


class Remote:
    """A watcher's actor: each method answers from a list, and an exception is raised by `ray.get`."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __getattr__(self, method: str):
        def remote(*arguments):
            self.asked.append((method, *arguments))
            return (self, self.answers.get(method, []).pop(0) if self.answers.get(method) else None)

        return SimpleNamespace(remote=remote)


PENDING = "pending"


@pytest.fixture
def fake_ray(monkeypatch):
    def get(reference, timeout=None):
        answer = reference[1]
        if answer == PENDING:
            raise ray.exceptions.GetTimeoutError("not within the time")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: ([r for r in refs if r[1] != PENDING], []))


def test_a_problem_is_told_with_its_node_and_nothing_waits(fake_ray):
    one, two = Remote(problem=[None, None]), Remote(problem=[PENDING])
    nodes = Nodes({"10.0.0.1 (aa)": one, "10.0.0.2 (bb)": two})
    assert nodes.problem() is None and nodes.problem() is None and nodes.problem() is None
    assert len(one.asked) == 3, "an answer is followed by the next question"
    assert len(two.asked) == 1, "a question without an answer is not asked again"
    one.answers["problem"] = ["VLLM::EngineCore (pid 3) died"]
    assert nodes.problem() is None
    assert nodes.problem() == "VLLM::EngineCore (pid 3) died on node 10.0.0.1 (aa)"


def test_a_lost_node_ends_the_run(fake_ray):
    nodes = Nodes({"10.0.0.1 (aa)": Remote(problem=[ray.exceptions.RayActorError()])})
    assert nodes.problem() is None
    assert nodes.problem().startswith("node 10.0.0.1 (aa) of the Ray cluster is lost: ")


def test_paths_that_a_node_lacks_are_refused_by_node(fake_ray):
    nodes = Nodes({"10.0.0.1 (aa)": Remote(missing=[[]]), "10.0.0.2 (bb)": Remote(missing=[["/run/x"]])})
    with pytest.raises(ConfigError, match=r"node 10\.0\.0\.2 \(bb\) .* has no /run/x: .* share") as refused:
        nodes.check_paths(["/run/x"])
    assert len(refused.value.problems) == 1


def test_a_node_that_cannot_run_this_code_is_refused(fake_ray):
    class StartError(ray.exceptions.RayError):
        pass

    text = "The actor died because of an error raised in its creation task\nModuleNotFoundError: trainer"
    nodes = Nodes({"10.0.0.2 (bb)": Remote(missing=[StartError(text)])})
    with pytest.raises(ConfigError, match=r"cannot run Protege .ModuleNotFoundError.* same environment"):
        nodes.check_runnable()


def test_logs_and_errors_of_the_nodes_that_answer(fake_ray):
    nodes = Nodes({
        "one": Remote(newest_error=[(5.0, "ValueError: newer")], log_text=["first"], engine_error=[None]),
        "two": Remote(newest_error=[(3.0, "ValueError: older")], log_text=[PENDING], engine_error=["boom"]),
        "three": Remote(newest_error=[None], log_text=["third"], engine_error=[PENDING]),
    })  # fmt: skip
    assert nodes.newest_error() == "ValueError: newer"
    assert nodes.log_text() == "##### node one\nfirst\n##### node three\nthird"
    assert nodes.engine_error() == "boom"


def test_nodes_of_one_machine_have_one_log(fake_ray):
    nodes = Nodes({"one": Remote(log_text=["same"]), "two": Remote(log_text=["same"])})
    assert nodes.log_text() == "##### node one, two\nsame"


def test_what_the_parts_do_is_told_by_node(fake_ray):
    one, two = (Remote(activity=["idle: ray::A"]) for _ in range(2))
    nodes = Nodes({"one": one, "two": two, "three": Remote(activity=[PENDING])})
    assert (
        nodes.activity() == "node one, two: idle: ray::A; node three: does not answer (not within the time)"
    )


def test_nodes_that_do_not_answer_are_told_and_not_asked_again(fake_ray):
    one, two = Remote(missing=[[], []], log_text=["first"]), Remote(missing=[PENDING])
    nodes = Nodes({"one": one, "two": two, "three": Remote(missing=[PENDING])})
    assert nodes.drop_silent() == "node two, three of the Ray cluster does not answer (not within the time)"
    assert nodes.drop_silent() is None
    assert nodes.log_text() == "##### node one\nfirst" and len(two.asked) == 1


def test_a_watcher_tells_what_its_parts_do(watcher, mark):
    part = started(mark, "ray::Part")
    assert watcher.activity() == "idle: ray::Part"
    part.kill()
    part.wait()
    part.stdout.close()


@pytest.mark.parametrize("raylet", ["70001", "70002"])
def test_workers_of_a_node_are_forked_by_its_own_server_and_started_without_one(
    tmp_path, monkeypatch, raylet
):
    def asked(number: str) -> str:
        code = "import os, sys; print(os.environ.get('OF'), 'wave' in sys.modules)"
        command = f"exec {nodes.fork_client(tmp_path)} -c {shlex.quote(code)}"  # as Ray starts a worker
        environment = {**os.environ, "RAY_RAYLET_PID": number, "OF": number}
        return subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    monkeypatch.setenv("RAY_RAYLET_PID", raylet)
    assert asked(raylet) == f"{raylet} False\n"
    with nodes.serve_forks(tmp_path, ("wave",)) as server:
        assert asked(raylet) == f"{raylet} True\n"
        assert asked("70003") == "70003 False\n"
        assert os.path.samefile(tmp_path / nodes.WARM, server.executable)
        monkeypatch.setenv("RAY_RAYLET_PID", "70004")
        monkeypatch.setenv(WARM_PYTHON, str(tmp_path / nodes.WARM))
        with nodes.serve_forks(tmp_path, ("colorsys",)):  # of another node on this machine
            assert asked("70004") == "70004 False\n", "forked from the first node's server"
            assert os.path.samefile(tmp_path / nodes.WARM, server.executable)
