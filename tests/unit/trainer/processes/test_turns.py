"""One training of a Ray cluster at a time: the others wait, and say for whom."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from common.files import write_text
from tests.helpers.paths import ROOT
from trainer.processes import actors

TRAINS = """
import sys, time
from pathlib import Path
import ray
from trainer.processes.actors import QUEUE, turn_to_train, wait_for_queue

address, folder, mode = sys.argv[1:]
ray.init(address=address, log_to_driver=False, configure_logging=False)
said = lambda text: Path(folder, "said").write_text(text)
with turn_to_train(Path(folder), said):
    wait_for_queue()
    queue = ray.remote(num_cpus=0)(type("Queue", (), {"ready": lambda self: True}))
    queue = queue.options(name=QUEUE[0], namespace=QUEUE[1]).remote()
    ray.get(queue.ready.remote())
    Path(folder, "trains").touch()
    while mode == "long" and not Path(folder, "end").exists():
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def address():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def trains(address, folder, mode):
    """A process that trains in the cluster; as `long`, until its folder has a file `end`."""
    folder.mkdir()
    command = [sys.executable, "-c", TRAINS, address, str(folder), mode]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def wait_for(path, seconds=60.0):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("ended", ["by itself", "killed"])
def test_a_second_training_waits_for_the_end_of_the_first_and_says_for_whom(address, tmp_path, ended):
    first, second = tmp_path / "first", tmp_path / "second"
    one = trains(address, first, "long")
    wait_for(first / "trains")
    other = trains(address, second, "short")
    wait_for(second / "said")
    told = (second / "said").read_text()
    assert str(first) in told and f"process {one.pid}" in told
    assert not (second / "trains").exists()
    if ended == "killed":
        one.kill()
    else:
        write_text(first / "end", "")
    assert one.wait(60) == (0 if ended == "by itself" else -9)
    assert other.wait(60) == 0 and (second / "trains").exists()
    assert not (first / "said").exists()


def test_a_queue_of_another_program_is_told(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_actor", lambda name, namespace: object())
    monkeypatch.setattr(actors, "POLL_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match=r"TransferQueueController.*another program"):
        actors.wait_for_queue(seconds=0.05)


def test_without_a_queue_nothing_waits(monkeypatch):
    def none(name, namespace):
        assert (name, namespace) == ("TransferQueueController", "transfer_queue")
        raise ValueError("no actor of this name")

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_actor", none)
    actors.wait_for_queue(seconds=0)
