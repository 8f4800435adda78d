"""vLLM's own OpenAI-compatible server on this machine's CPU, as a user would start it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from eval.generation.worker import CPU, OFFLINE, with_our_code

START_SECONDS = 240


@dataclass(frozen=True)
class VllmServer:
    """A running server."""

    url: str
    process: subprocess.Popen

    def kill(self) -> None:
        """Ends it and its engine, as `kill -9` does, and removes the memory that they shared."""
        blocks = _shared_memory(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        for block in blocks:
            block.unlink(missing_ok=True)


@contextlib.contextmanager
def vllm_server(model: Path, name: str, context: int, log: Path, key: str) -> Iterator[VllmServer]:
    """Serves the model in float32 under this name; ends the server with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", str(context), "--enforce-eager", "--block-size", "32",
        "--kv-cache-memory-bytes", str(2**25), "--max-num-seqs", "64",
    ]  # fmt: skip
    environment = {**with_our_code(dict(os.environ)), **OFFLINE, **CPU, "VLLM_API_KEY": key}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    server = VllmServer(f"http://127.0.0.1:{port}/v1", process)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield server
    finally:
        server.kill()


def _shared_memory(pid: int) -> set[Path]:
    """Blocks that this process and those below it have mapped; none of a process that has ended."""
    found = set()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found |= {Path(part.path) for part in each.memory_maps() if part.path.startswith("/dev/shm/")}
            found |= set(Path("/dev/shm").glob(f"sem.loky-{each.pid}-*"))  # mapped by another name
    return found


def _wait(server: VllmServer, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        tail = log.read_text(errors="replace")[-2000:]
        assert server.process.poll() is None, f"the server ended:\n{tail}"
        assert time.monotonic() < deadline, f"the server did not start:\n{tail}"
        time.sleep(0.3)
