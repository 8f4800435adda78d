"""A generation worker on another node: its pipes, its environment, and what the command starts instead."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from pathlib import Path

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


def echo() -> RemoteWorker:
    return RemoteWorker(SETTINGS, [sys.executable, "-c", ECHO])


def until(worker: RemoteWorker, kind: str) -> tuple[str, str]:
    """The first piece of the kind; others before it are passed over."""
    while True:
        for piece in worker.receive():
            if piece[0] == kind:
                return piece


def test_lines_go_to_the_worker_and_its_replies_and_log_come_back():
    worker = echo()
    assert until(worker, LOG) == (LOG, "started with 0\n")
    folder = Path(until(worker, REPLY)[1].strip())
    assert (folder / "left").exists()
    worker.send("one\n")
    assert until(worker, REPLY) == (REPLY, f"heard one {PROJECT}\n")
    worker.send("two\n")
    assert until(worker, REPLY) == (REPLY, f"heard two {PROJECT}\n")
    worker.send("end\n")
    assert until(worker, END) == (END, "7")
    assert not folder.exists()


def test_a_worker_that_has_ended_is_told_by_its_end_alone():
    worker = echo()
    worker.send("end\n")
    assert until(worker, END) == (END, "7")
    worker.send("late\n")


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
