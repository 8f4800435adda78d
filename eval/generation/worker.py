"""The process that answers prompts: one vLLM engine, and one model after another in it.

Started by `eval.generation.generate.Generator` as `python -m eval.generation.worker SETTINGS`, SETTINGS being
the JSON of `Settings`. It speaks JSON lines: requests on standard input, replies on what was standard
output when it started (file descriptor 1 is the log from then on, so prints cannot break a line).

    request   {"model": folder, "prompts": [{"problem": id, "messages": [...], "seeds": [int|null, ...]}],
               "temperature": t, "max_tokens": m}       temperature 0 is greedy
    replies   {"type": "ready", "seconds": {"imports": s}}                       once, before any request
              {"type": "progress", "done": answers}
              {"type": "result", "completions": {id: [[text, tokens, finished], ...]}, "seconds": {...}}
              {"type": "rebuild", "reason": text}       this process cannot serve that model: start another
              {"type": "error", "message": text}

A next model of the same architecture, tokenizer and generation defaults is loaded in place, and every
parameter is then compared with the file. Whatever cannot be compared, or differs, asks for a rebuild.
The process ends, with all that it started, when its standard input closes or its parent is gone.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eval.generation.engine_weights import different_parameters, engine_key, weights_identity

DTYPES: dict[str, Literal["float32", "bfloat16"]] = {"cpu": "float32", "cuda": "bfloat16"}
"""Type that every model is run in, whatever it was saved in, so that models are compared alike."""

PROJECT = Path(__file__).resolve().parents[2]

OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Workers read local folders only."""

IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The engine runs inside the worker: one process less to start, and none that can outlive it."""

FOLDER = "PROTEGE_WORKER_FOLDER"
"""Environment variable with the folder of a worker's temporary files and sockets. Who started the worker
removes it; where that one is killed, the worker does."""

CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
}
"""One thread a process: on shared cores a second one makes small models slower, not faster."""

CPU_CACHE_BYTES = 1 << 30
"""Largest KV cache on a CPU, unless one sequence needs more; it is resident memory."""
CPU_BLOCK_TOKENS = 32
CPU_MAX_SEQUENCES = 256
CPU_MAX_BATCHED_TOKENS = 8192
PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Settings:
    """What holds for the whole life of a worker."""

    device: str
    max_model_len: int
    tensor_parallel: int


def process_environment(settings: Settings, inherited: dict[str, str]) -> dict[str, str]:
    """Environment of a worker's process, but for its devices: our code first, vLLM in one process."""
    environment = {**with_our_code(inherited), **OFFLINE, **IN_PROCESS}
    return {**environment, **CPU} if settings.device == "cpu" else environment


def with_new_folder(environment: dict[str, str]) -> dict[str, str]:
    """The environment with a folder for temporary files that is made here; see `FOLDER`."""
    folder = tempfile.mkdtemp(prefix="protege-worker-")
    return {**environment, FOLDER: folder, "TMPDIR": folder}


def with_our_code(inherited: dict[str, str]) -> dict[str, str]:
    """The environment with our code first on the path of a Python process."""
    path = os.pathsep.join(filter(None, [str(PROJECT), inherited.get("PYTHONPATH")]))
    return {**inherited, "PYTHONPATH": path}


class RebuildNeededError(Exception):
    """This process cannot hold the requested model; a fresh one can."""


def main() -> None:
    """Serve requests until standard input closes."""
    settings = Settings(**json.loads(sys.argv[1]))
    send = _take_over_stdout()
    requests = _read_requests()
    started = time.perf_counter()
    _import_vllm(settings)
    send({"type": "ready", "seconds": {"imports": time.perf_counter() - started}})
    server = Server(settings, send)
    while True:
        request = requests.get()
        try:
            send(server.answer(request))
        except RebuildNeededError as rebuild:
            send({"type": "rebuild", "reason": str(rebuild)})
        except Exception as error:
            traceback.print_exc()
            send({"type": "error", "message": f"{type(error).__name__}: {error}"})


# ------------------------------------------------------------------------------------ the channel


def _take_over_stdout() -> Callable[[dict], None]:
    """Keep the reply pipe to ourselves and point file descriptor 1 at the log; returns the sender."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)

    def send(reply: dict) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    return send


def _read_requests() -> queue.Queue[dict]:
    """Read standard input in a thread, which also notices the end of the parent during generation."""
    requests: queue.Queue[dict] = queue.Queue()
    parent = os.getppid()

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        _end_with_children()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        _end_with_children()

    for work in (read, watch):
        threading.Thread(target=work, daemon=True).start()
    return requests


def _end_with_children() -> None:
    """End this process and all of its group; the parent gave the worker a session of its own."""
    if folder := os.environ.get(FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


# ------------------------------------------------------------------------------------- the engine


def _import_vllm(settings: Settings) -> None:
    """The slow part of the start-up, done before the first request is there."""
    import vllm
    from vllm import LLM, SamplingParams  # noqa: F401  (vLLM imports them when they are asked for)
    from vllm.platforms import current_platform

    if current_platform.is_cpu() != (settings.device == "cpu"):
        raise RuntimeError(
            f"hardware.device is {settings.device!r}, but the installed vLLM {vllm.__version__} runs on "
            f"{current_platform.device_type!r}; install the requirements of that device"
        )


@dataclass
class Server:
    """One vLLM engine and the model that is in it."""

    settings: Settings
    send: Callable[[dict], None]
    llm: Any = None
    loaded: str = ""
    engine_key: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def answer(self, request: dict) -> dict:
        """The result reply of a request; progress replies are sent on the way.

        Raises ValueError if a prompt leaves no room for an answer, RebuildNeededError if another
        process must serve the model.
        """
        self.seconds = {}
        self._load(Path(request["model"]))
        prompts, params = self._tokenize(request)
        with self._timed("generation"):
            outputs = self.llm.generate(prompts, params, use_tqdm=partial(_meter, self.send))
        return {"type": "result", "completions": _by_problem(request, outputs), "seconds": self.seconds}

    def _load(self, folder: Path) -> None:
        identity = weights_identity(folder)
        if self.llm is None:
            with self._timed("engine"):
                self.llm = _build_engine(folder, self.settings)
            self.engine_key = engine_key(folder)
        elif identity != self.loaded:
            with self._timed("swap"):
                self._swap(folder)
        self.loaded = identity

    def _swap(self, folder: Path) -> None:
        """Replace the weights in place, and prove it."""
        if self.settings.tensor_parallel > 1:
            raise RebuildNeededError("weights that are split over devices cannot be compared with their file")
        if engine_key(folder) != self.engine_key:
            raise RebuildNeededError("another architecture, tokenizer or generation config")
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            different = self.llm.apply_model(partial(different_parameters, folder))[0]
        except Exception as error:
            traceback.print_exc()
            raise RebuildNeededError(f"loading in place failed: {type(error).__name__}: {error}") from error
        if different:
            raise RebuildNeededError(f"after loading in place {different[0]} is not what its file says")
        self.llm.reset_prefix_cache()

    def _tokenize(self, request: dict) -> tuple[list[dict], list[Any]]:
        """Rendered prompts and sampling parameters, one of each for every wanted answer."""
        from vllm import SamplingParams

        with self._timed("tokenization"):
            prompts: list[dict] = []
            params: list[Any] = []
            for prompt in request["prompts"]:
                ids = self.llm.get_tokenizer().apply_chat_template(
                    prompt["messages"],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                    **request["chat_template"],
                )
                room = self.settings.max_model_len - len(ids)
                if room < 1:
                    raise ValueError(
                        f"problem {prompt['problem']!r} has {len(ids)} prompt tokens, which leaves no room "
                        f"for an answer in the model's context of {self.settings.max_model_len}"
                    )
                for seed in prompt["seeds"]:
                    prompts.append({"prompt_token_ids": ids})
                    params.append(
                        SamplingParams(
                            temperature=request["temperature"],
                            seed=seed,
                            max_tokens=min(room, request["max_tokens"]),
                        )
                    )
        return prompts, params

    def _timed(self, name: str) -> _Timer:
        return _Timer(self.seconds, name)


@dataclass
class _Timer:
    seconds: dict[str, float]
    name: str
    started: float = 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = time.perf_counter() - self.started


def _build_engine(folder: Path, settings: Settings) -> Any:
    from vllm import LLM

    device_options = _cpu_options(folder, settings.max_model_len) if settings.device == "cpu" else {}
    return LLM(
        str(folder),
        dtype=DTYPES[settings.device],
        max_model_len=settings.max_model_len,
        tensor_parallel_size=settings.tensor_parallel,
        seed=0,
        **device_options,
    )


def _cpu_options(folder: Path, max_model_len: int) -> dict[str, Any]:
    """A KV cache of the size that is used, and prompts that are never split.

    vLLM's per-request random generators cannot step back on a CPU, which a split prompt needs.
    """
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = 2 * config["num_hidden_layers"] * heads * head_size * 4
    blocks = math.ceil(max_model_len / CPU_BLOCK_TOKENS)
    sequence_bytes = blocks * CPU_BLOCK_TOKENS * token_bytes
    sequences = max(1, min(CPU_MAX_SEQUENCES, CPU_CACHE_BYTES // sequence_bytes))
    return {
        "enforce_eager": True,
        "block_size": CPU_BLOCK_TOKENS,
        # vLLM keeps one block for itself.
        "kv_cache_memory_bytes": sequences * sequence_bytes + CPU_BLOCK_TOKENS * token_bytes,
        "max_num_seqs": sequences,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_MAX_BATCHED_TOKENS, max_model_len),
    }


def _meter(send: Callable[[dict], None], *args: Any, **options: Any) -> Any:
    """A tqdm for `LLM.generate` that sends counts of finished answers and draws nothing."""
    from tqdm import tqdm

    class Meter(tqdm):
        sent = 0.0

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if time.perf_counter() - self.sent > PROGRESS_SECONDS:
                self.sent = time.perf_counter()
                send({"type": "progress", "done": int(self.n)})
            return None

        def display(self, *_: Any, **__: Any) -> None:
            """Draw nothing."""

        def close(self) -> None:
            """Write no last line either."""
            self.disable = True

    return Meter(*args, **options)


def _by_problem(request: dict, outputs: list[Any]) -> dict[str, list[list]]:
    """Outputs, in the order of the requested answers, grouped by problem."""
    remaining: Iterator[Any] = iter(outputs)
    completions: dict[str, list[list]] = {}
    for prompt in request["prompts"]:
        answers = [next(remaining).outputs[0] for _ in prompt["seeds"]]
        completions[prompt["problem"]] = [
            [answer.text, len(answer.token_ids), answer.finish_reason == "stop"] for answer in answers
        ]
    assert next(remaining, None) is None, "vLLM returned more answers than were asked for"
    return completions


# --------------------------------------------------------------------------- models and their files


if __name__ == "__main__":
    main()
