"""A generation worker on another node: its pipes, its environment, and what the command starts instead."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from pathlib import Path

import pytest

from common.processes import WARM_PYTHON
from eval.generation import generate
from eval.generation.generate import RELAY, Generator
from eval.generation.relay import END, LOG, REPLY, RemoteWorker
from eval.generation.worker import PROJECT

SETTINGS = {"device": "cpu", "max_model_len": 64, "tensor_parallel": 1}
ECHO = textwrap.dedent(
    """
    import os, sys
    print("started with", os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"], file=sys.stderr, flush=True)
    open(os.path.join(os.environ["TMPDIR"], "left"), "w").close()
    print(os.environ["TMPDIR"], flush=True)
    for line in sys.stdin:
        if line.startswith("end"):
            sys.exit(7)
        print("heard", line.strip(), os.environ["PYTHONPATH"].split(":")[0], flush=True)
    """
)


class Echo:
    """A worker that says what it hears; `until` gives the next piece of a kind, whatever came before it."""

    def __init__(self) -> None:
        self.worker = RemoteWorker(SETTINGS, [sys.executable, "-c", ECHO])
        self.send, self.pieces = self.worker.send, []

    def until(self, kind: str) -> str:
        while not any(piece[0] == kind for piece in self.pieces):
            self.pieces += self.worker.receive()
        found = next(piece for piece in self.pieces if piece[0] == kind)
        self.pieces.remove(found)
        return found[1]


def test_lines_go_to_the_worker_and_its_replies_and_log_come_back():
    echo = Echo()
    assert echo.until(LOG) == "started with 0\n"
    folder = Path(echo.until(REPLY).strip())
    assert (folder / "left").exists()
    echo.send("one\n")
    assert echo.until(REPLY) == f"heard one {PROJECT}\n"
    echo.send("two\n")
    assert echo.until(REPLY) == f"heard two {PROJECT}\n"
    echo.send("end\n")
    assert echo.until(END) == "7"
    assert not folder.exists()


def test_a_worker_that_has_ended_is_told_by_its_end_alone():
    echo = Echo()
    echo.send("end\n")
    assert echo.until(END) == "7"
    echo.send("late\n")


def test_with_a_clusters_address_relays_are_started_in_the_workers_place(tmp_path, monkeypatch):
    started = tmp_path / "started"
    code = (
        f"import os, sys; open({str(started)!r}, 'w').write(repr((sys.argv[1:], os.environ['PYTHONPATH'])))"
    )
    monkeypatch.setattr(generate, "RELAY", (sys.executable, "-c", code))
    monkeypatch.setattr(generate, "WORKER", ("/bin/false",))
    with Generator("cpu", 1, 64, tmp_path / "log", ray_address="10.0.0.1:6379") as generator:
        generator.start()
        deadline = time.monotonic() + 60
        while not (started.exists() and started.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    (address, settings), path = eval(started.read_text())
    assert address == "10.0.0.1:6379" and json.loads(settings) == SETTINGS
    assert path.split(":")[0] == str(PROJECT)
    assert RELAY[-1] == "eval.generation.relay"


@pytest.mark.parametrize(("device", "warm"), [("cpu", True), ("cuda", False)])
def test_on_a_cpu_node_the_worker_is_started_by_the_nodes_warm_python(tmp_path, monkeypatch, device, warm):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho by the warm one\n")
    python.chmod(0o755)
    monkeypatch.setenv(WARM_PYTHON, str(python))
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    worker = RemoteWorker({**SETTINGS, "device": device})
    (kind, text), *_ = worker.receive()
    assert kind == REPLY and (text == "by the warm one\n") == warm
