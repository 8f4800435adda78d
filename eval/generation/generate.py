"""Answers of models to problems, from vLLM in worker processes (`eval.generation.worker`)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.processes import pipes, warm_python
from configs.schema import Hardware
from eval.generation.worker import (
    FOLDER,
    Settings,
    process_environment,
    with_new_folder,
    with_our_code,
)
from eval.records import Completion, Mode, Problem

Inbox = queue.Queue[tuple["_Worker", dict | None]]
"""Replies, each with its worker; None says that the worker's pipe has closed."""

WORKER = ("-P", "-m", "eval.generation.worker")
"""Python's arguments for a worker; `-P` because files of the user's working folder must not shadow ours."""

RELAY = (sys.executable, "-P", "-m", "eval.generation.relay")
"""Command of what stands in for a worker on another node; a cluster's address follows."""

LOG_TAIL_LINES = 15
LOG_LINE_CHARACTERS = 300
POLL_SECONDS = 0.5
STOP_SECONDS = 3.0


def placed_on(hardware: Hardware) -> dict[str, Any]:
    """The arguments of `Generator` that say where it works: on all devices, in one process on a CPU."""
    cuda = hardware.device == "cuda"
    return {
        "device": hardware.device,
        "devices": hardware.gpus * hardware.nodes if cuda else 1,
        "tensor_parallel": hardware.rollout_tensor_parallel if cuda else 1,
        "ray_address": hardware.ray_address,
    }


@dataclass
class Generator:
    """Worker processes that answer prompts; a context manager, outside of which no worker lives.

    Workers start with the first `start` or `generate`. Models of one architecture follow each other
    in the same engine. `seconds` adds up where the workers' time went: imports, engine, swap,
    tokenization, generation.
    """

    device: Literal["cpu", "cuda"]
    devices: int
    """GPUs to use; on a CPU the number of worker processes."""
    max_model_len: int
    """Longest prompt with its answer, in tokens; no more than the models' context."""
    log_path: Path
    """File of the workers' output; with several workers each has its own, numbered."""
    tensor_parallel: int = 1
    """Devices that share one engine."""
    chat_template: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the models' chat templates."""
    ray_address: str | None = None
    """A Ray cluster whose nodes the workers run on; by default they run on this machine."""
    seconds: dict[str, float] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers, without waiting for them."""
        if not self._workers:
            count = max(1, self.devices // self.tensor_parallel)
            self._workers = [
                _Worker(self._settings(), i, self._log(i, count), self.ray_address) for i in range(count)
            ]

    def close(self) -> None:
        """End every worker and wait for it."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()

    def generate(
        self,
        model_path: Path,
        problems: list[Problem],
        mode: Mode,
        n: int,
        temperature: float,
        seed: int,
        max_tokens: int,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> dict[str, list[Completion]]:
        """Answers of the model in `model_path` to each problem, by problem id in the problems' order.

        mode: `greedy` gives one answer (n must be 1, the temperature is not used); `sampled` gives n.
        seed: sample i of a problem draws from a generator of its own, see `sample_seed`.
        max_tokens: answer length limit; an answer also ends (unfinished) at `max_model_len`.
        on_progress: called in this thread with the number of answers so far.

        Raises RuntimeError, with the end of the worker's log, if a worker dies or reports an error;
        then all workers are ended.
        """
        assert len({problem.id for problem in problems}) == len(problems), "problem ids must be unique"
        assert n >= 1 and (mode == "sampled" or n == 1)
        assert mode == "greedy" or temperature > 0
        if not problems:
            return {}
        try:
            self.start()
            requests = [
                {
                    "model": str(model_path),
                    "prompts": [_prompt(problem, mode, n, seed) for problem in part],
                    "temperature": temperature if mode == "sampled" else 0.0,
                    "max_tokens": max_tokens,
                    "chat_template": dict(self.chat_template),
                }
                for part in _deal(problems, len(self._workers))
            ]
            answers = self._serve(requests, on_progress)
        except BaseException:
            self.close()
            raise
        return {problem.id: [Completion(*fields) for fields in answers[problem.id]] for problem in problems}

    def _serve(self, requests: list[dict], on_progress: Callable[[int], None]) -> dict[str, list[list]]:
        """Send request i to worker i and collect all results."""
        inbox: Inbox = queue.Queue()
        done = [0] * len(requests)
        answers: dict[str, list[list]] = {}
        waiting = set(range(len(requests)))
        for index, request in enumerate(requests):
            self._workers[index].send(request, inbox)
        while waiting:
            index, reply = self._next(inbox, self._workers[: len(requests)])
            if reply is None:
                raise RuntimeError(self._workers[index].obituary(requests[index]["model"]))
            self._add_seconds(reply.get("seconds", {}))
            if reply["type"] == "progress":
                done[index] = reply["done"]
                on_progress(sum(done))
            elif reply["type"] == "result":
                answers |= reply["completions"]
                done[index] = sum(len(prompt["seeds"]) for prompt in requests[index]["prompts"])
                waiting.remove(index)
                on_progress(sum(done))
            elif reply["type"] == "rebuild":
                self._workers[index] = self._workers[index].replacement(reply["reason"])
                self._workers[index].send(requests[index], inbox)
            elif reply["type"] == "error":
                log = self._workers[index].log_path
                model = requests[index]["model"]
                raise RuntimeError(f"generation with {model} failed: {reply['message']} (log: {log})")
        return answers

    def _next(self, inbox: Inbox, asked: list[_Worker]) -> tuple[int, dict | None]:
        """The next reply of a worker that was asked; None in its place says that the worker has ended."""
        while True:
            try:
                worker, reply = inbox.get(timeout=POLL_SECONDS)
            except queue.Empty:
                worker = next((worker for worker in asked if worker.has_ended()), None)
                reply = None
            if worker in asked:
                return worker.index, reply

    def _add_seconds(self, seconds: dict[str, float]) -> None:
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def _settings(self) -> Settings:
        return Settings(self.device, self.max_model_len, self.tensor_parallel)

    def _log(self, index: int, count: int) -> Path:
        path = Path(self.log_path)
        return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")


def sample_seed(seed: int, problem_id: str, index: int) -> int:
    """Seed of sample `index` of a problem, in [0, 2^63): it depends on nothing else, so neither the
    order nor the split of the problems changes an answer, and every model gets the same draws."""
    digest = hashlib.sha256(json.dumps([seed, problem_id, index]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _prompt(problem: Problem, mode: Mode, n: int, seed: int) -> dict[str, Any]:
    seeds = [None] if mode == "greedy" else [sample_seed(seed, problem.id, index) for index in range(n)]
    return {"problem": problem.id, "messages": problem.messages, "seeds": seeds}


def _deal(problems: list[Problem], hands: int) -> list[list[Problem]]:
    """Split over workers, each with every so-many-th problem; no hand is empty."""
    return [problems[i::hands] for i in range(min(hands, len(problems)))]


class _Worker:
    """One worker process, in a session of its own so that all its children end with it."""

    def __init__(self, settings: Settings, index: int, log_path: Path, ray_address: str | None) -> None:
        self.settings, self.index, self.log_path = settings, index, log_path
        self.ray_address = ray_address
        python = warm_python() if settings.device == "cpu" else sys.executable
        command = (python, *WORKER) if ray_address is None else (*RELAY, ray_address)
        self._inbox: Inbox | None = None
        self._early: list[dict] = []
        environment = self._environment()
        self._folder = environment.get(FOLDER)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: dict, inbox: Inbox) -> None:
        """Send a request; its replies go to `inbox`, as does what the worker said before."""
        with self._lock:
            self._inbox = inbox
            for reply in self._early:
                inbox.put((self, reply))
            self._early = []
        try:
            stdin, _ = pipes(self._process)
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except BrokenPipeError:
            inbox.put((self, None))

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def obituary(self, model: str) -> str:
        """What a user needs to know about a worker that has died."""
        try:
            status = f"exit status {self._process.wait(STOP_SECONDS)}"
        except subprocess.TimeoutExpired:
            status = "its reply pipe was closed"
        lines = self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        tail = "\n".join(line[:LOG_LINE_CHARACTERS] for line in lines)
        return f"the generation worker died ({status}) while serving {model}; end of {self.log_path}:\n{tail}"

    def replacement(self, reason: str) -> _Worker:
        """End this process and start another in its place."""
        self.terminate()
        self.wait()
        with self.log_path.open("a") as log:
            log.write(f"--- new worker process: {reason}\n")
        return _Worker(self.settings, self.index, self.log_path, self.ray_address)

    def _environment(self) -> dict[str, str]:
        if self.ray_address is not None:  # the worker's own is that of its node
            return with_our_code(dict(os.environ))
        return with_new_folder(worker_environment(self.settings, self.index, dict(os.environ)))

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait for the end, which comes by force if need be, of the process and its children."""
        deadline = time.monotonic() + STOP_SECONDS
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            pipes(self._process)[0].close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        """Forward replies until the pipe closes."""
        with pipes(self._process)[1] as replies:
            for line in replies:
                self._forward(json.loads(line))
        self._forward(None)

    def _forward(self, reply: dict | None) -> None:
        with self._lock:
            if self._inbox is not None:
                self._inbox.put((self, reply))
            elif reply is not None:
                self._early.append(reply)


def worker_environment(settings: Settings, index: int, inherited: dict[str, str]) -> dict[str, str]:
    """Environment of worker `index` on this machine: a worker's, with its own devices."""
    environment = process_environment(settings, inherited)
    if settings.device == "cpu":
        return environment
    visible = [d for d in inherited.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    first = index * settings.tensor_parallel
    wanted = range(first, first + settings.tensor_parallel)
    if visible and wanted.stop > len(visible):
        raise RuntimeError(
            f"worker {index} needs {settings.tensor_parallel} GPU(s) from number {first} on, but "
            f"CUDA_VISIBLE_DEVICES names {len(visible)}; lower hardware.gpus or make more visible"
        )
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[i] if visible else str(i) for i in wanted)
    return environment
