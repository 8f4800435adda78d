"""Stands in for a generation worker that runs on another node of a Ray cluster.

Started by `eval.generation.generate.Generator` in a worker's place, as
`python -m eval.generation.relay ADDRESS SETTINGS`. Ray finds a node with as many free devices as one engine
needs, and runs the worker there. Whatever arrives on standard input goes to the worker; its replies and its
log come back on standard output and standard error. The worker ends with this process.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from common.processes import pipes, warm_python
from eval.generation.worker import FOLDER, Settings, process_environment, with_new_folder

REPLY, LOG, END = "reply", "log", "end"
Piece = tuple[str, str]
"""`REPLY` or `LOG` with a line, or `END` with the worker's exit code: its last words."""


class RemoteWorker:
    """The worker on its node, with its pipes; one thread may send while another one receives."""

    def __init__(self, settings: dict[str, Any], command: Sequence[str] | None = None) -> None:
        """`command` is what runs in place of the worker."""
        python = warm_python() if settings["device"] == "cpu" else sys.executable
        worker = [python, "-P", "-m", "eval.generation.worker", json.dumps(settings)]
        environment = with_new_folder(process_environment(Settings(**settings), dict(os.environ)))
        self._folder = environment[FOLDER]
        self._process = subprocess.Popen(
            worker if command is None else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._pieces: queue.Queue[Piece] = queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()

    def send(self, line: str) -> None:
        """Hands a line to the worker, unless it has ended."""
        requests, _ = pipes(self._process)
        with suppress(BrokenPipeError):  # `END` says so
            requests.write(line)
            requests.flush()

    def receive(self) -> list[Piece]:
        """Waits for something that the worker wrote, and returns all that is there."""
        pieces = [self._pieces.get()]
        while not self._pieces.empty():
            pieces.append(self._pieces.get())
        return pieces

    def _collect(self) -> None:
        _, replies = pipes(self._process)
        log = self._process.stderr
        assert log is not None
        readers = [
            threading.Thread(target=self._read, args=(pipe, kind), daemon=True)
            for pipe, kind in ((replies, REPLY), (log, LOG))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        code = self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._pieces.put((END, str(code)))

    def _read(self, pipe: IO[str], kind: str) -> None:
        for line in pipe:
            self._pieces.put((kind, line))


def main() -> None:
    """Hands lines to and fro until standard input closes or the worker ends; then ends as it did."""
    address, settings = sys.argv[1], json.loads(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever Ray prints belongs to the log
    import ray

    from eval.generation.relay import RemoteWorker as Remote  # not of `__main__`, which nodes do not have

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    devices = settings["tensor_parallel"]
    actor: Any = ray.remote(Remote)
    worker = actor.options(num_cpus=0, num_gpus=devices, max_concurrency=2).remote(settings)

    def forward() -> None:
        for line in sys.stdin:
            ray.get(worker.send.remote(line))
        os._exit(0)  # the cluster ends what belongs to this process

    threading.Thread(target=forward, daemon=True).start()
    while True:
        for kind, text in ray.get(worker.receive.remote()):
            if kind == END:
                os._exit(int(text) % 256)
            stream = replies if kind == REPLY else sys.stderr
            stream.write(text)
            stream.flush()


if __name__ == "__main__":
    main()
