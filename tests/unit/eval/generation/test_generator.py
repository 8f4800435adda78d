"""The parent's half of generation, against a worker that speaks the protocol without a model."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from common.processes import WARM_PYTHON
from eval.generation import generate
from eval.generation.engine_weights import engine_key
from eval.generation.generate import Generator, sample_seed, worker_environment
from eval.generation.worker import Settings
from eval.records import Completion, Problem
from tests.helpers.messages import refuses

FAKE_WORKER = textwrap.dedent(
    """
    import json, os, sys, time

    def send(**reply):
        print(json.dumps(reply), flush=True)

    print("worker", os.getpid(), sys.argv[1], file=sys.stderr, flush=True)
    open(os.environ["TMPDIR"] + "/left", "w").close()
    print("folder:" + os.environ["TMPDIR"], file=sys.stderr, flush=True)
    send(type="ready", seconds={"imports": 1.5})
    held = None
    for line in sys.stdin:
        request = json.loads(line)
        folder = request["model"]
        if "dies" in folder:
            print("Segmentation fault of a kernel", file=sys.stderr, flush=True)
            os._exit(7)
        if "hangs" in folder:
            time.sleep(600)
        if "refuses" in folder:
            send(type="error", message="ValueError: problem 'q' is too long")
            continue
        if held not in (None, folder):
            send(type="rebuild", reason="another architecture")
            continue
        held = folder
        answers = {}
        told = json.dumps(request["chat_template"]) if request["chat_template"] else ""
        for prompt in request["prompts"]:
            text = prompt["messages"][0]["content"]
            answers[prompt["problem"]] = [
                [f"{folder}|{text}|{seed}|{request['temperature']}{told}", os.getpid(), True]
                for seed in prompt["seeds"]
            ]
            send(type="progress", done=sum(map(len, answers.values())))
        send(type="result", completions=answers, seconds={"generation": 0.25})
    """
)


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(FAKE_WORKER)
    monkeypatch.setattr(generate, "WORKER", (str(script),))


@pytest.fixture
def generator(fake_worker: None, tmp_path: Path):
    with Generator("cpu", 1, 64, tmp_path / "logs" / "generation.log") as generator:
        yield generator


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{i}", ({"role": "user", "content": f"question {i}"},), None) for i in range(count)]


def ask(generator: Generator, model: str, count: int = 3, mode: str = "sampled", n: int = 2, **options):
    return generator.generate(Path(model), problems(count), mode, n, 0.7, 42, 16, **options)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_answers_are_keyed_by_problem_with_their_own_seeds(generator: Generator) -> None:
    answers = ask(generator, "m")
    assert list(answers) == ["p0", "p1", "p2"]
    seeds = [sample_seed(42, "p1", 0), sample_seed(42, "p1", 1)]
    assert [a.text for a in answers["p1"]] == [f"m|question 1|{seed}|0.7" for seed in seeds]
    assert isinstance(answers["p1"][0], Completion) and answers["p1"][0].finished is True


def test_arguments_of_the_chat_template_are_those_of_when_a_request_is_made(generator: Generator) -> None:
    generator.chat_template = {"think": True}
    assert ask(generator, "m", 1)["p0"][0].text.endswith('|0.7{"think": true}')
    generator.chat_template = {}
    assert ask(generator, "m", 1)["p0"][0].text.endswith("|0.7")


def test_greedy_has_neither_seed_nor_temperature(generator: Generator) -> None:
    assert [a.text for a in ask(generator, "m", mode="greedy", n=1)["p0"]] == ["m|question 0|None|0.0"]


def test_a_worker_has_a_folder_for_temporary_files_until_it_ends(
    generator: Generator, tmp_path: Path
) -> None:
    ask(generator, "m")
    ask(generator, "m2")  # by another worker
    lines = (tmp_path / "logs" / "generation.log").read_text().splitlines()
    first, second = (Path(line.removeprefix("folder:")) for line in lines if line.startswith("folder:"))
    assert not first.exists() and (second / "left").exists()
    generator.close()
    assert not second.exists()


def test_no_problems_start_no_worker(generator: Generator, tmp_path: Path) -> None:
    assert ask(generator, "m", count=0) == {}
    assert not (tmp_path / "logs").exists()


def test_sample_seed_depends_on_all_of_its_arguments_and_is_stable() -> None:
    # First eight bytes of sha256('[42, "p1", 0]'), shifted right by one.
    assert sample_seed(42, "p1", 0) == 0x6FBDAED7939D0375
    seeds = {sample_seed(s, p, i) for s in (1, 2) for p in ("a", "b", "a1") for i in (0, 1, 11)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_problems_are_split_over_workers_and_put_together_in_order(fake_worker: None, tmp_path: Path) -> None:
    progress: list[int] = []
    with Generator("cpu", 2, 64, tmp_path / "generation.log") as generator:
        answers = ask(generator, "m", count=5, on_progress=progress.append)
        pids = {id: answer[0].tokens for id, answer in answers.items()}
    assert list(answers) == ["p0", "p1", "p2", "p3", "p4"]
    assert pids["p0"] == pids["p2"] == pids["p4"] != pids["p1"] == pids["p3"]
    assert progress[-1] == 10 and progress == sorted(progress)
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["generation-0.log", "generation-1.log"]


def test_one_worker_serves_request_after_request(generator: Generator) -> None:
    pids = {ask(generator, "m")["p0"][0].tokens for _ in range(3)}
    assert len(pids) == 1
    assert generator.seconds == {"imports": 1.5, "generation": 0.75}


def test_rebuild_means_another_process_and_the_same_request(generator: Generator, tmp_path: Path) -> None:
    first = ask(generator, "m")["p0"][0].tokens
    second = ask(generator, "other")["p0"][0]
    assert second.text.startswith("other|question 0|")
    assert second.tokens != first and not is_alive(first)
    assert "another architecture" in (tmp_path / "logs" / "generation.log").read_text()


def test_a_dead_worker_is_reported_with_its_last_words(generator: Generator) -> None:
    started = time.monotonic()
    with refuses("exit status 7", "dies", "Segmentation fault of a kernel", error=RuntimeError):
        ask(generator, "dies")
    assert time.monotonic() - started < 5


def test_after_a_death_the_generator_starts_anew(generator: Generator) -> None:
    with pytest.raises(RuntimeError):
        ask(generator, "dies")
    assert len(ask(generator, "m")) == 3


def test_a_worker_that_died_between_requests_is_reported(generator: Generator) -> None:
    pid = ask(generator, "m")["p0"][0].tokens
    os.kill(pid, 9)
    with pytest.raises(RuntimeError, match="exit status -9"):
        ask(generator, "m")


def test_an_error_reply_is_raised_and_ends_all_workers(fake_worker: None, tmp_path: Path) -> None:
    with Generator("cpu", 2, 64, tmp_path / "generation.log") as generator:
        pids = [answers[0].tokens for answers in ask(generator, "m").values()]
        with pytest.raises(RuntimeError, match="problem 'q' is too long"):
            ask(generator, "refuses")
        assert not any(is_alive(pid) for pid in pids)


def test_leaving_the_context_ends_a_busy_worker(fake_worker: None, tmp_path: Path) -> None:
    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    with Generator("cpu", 1, 64, tmp_path / "generation.log") as generator:
        pid = ask(generator, "m")["p0"][0].tokens
        with pytest.raises(KeyboardInterrupt):
            ask(generator, "m", on_progress=interrupt)
        assert not is_alive(pid)


# --------------------------------------------------------------------------------- environment, keys


def test_a_cpu_worker_sees_no_gpu_and_has_one_thread() -> None:
    environment = worker_environment(Settings("cpu", 64, 1), 0, {"CUDA_VISIBLE_DEVICES": "3", "HOME": "/h"})
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["HOME"] == "/h"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.parametrize(
    ("inherited", "index", "tensor_parallel", "visible"),
    [({}, 0, 1, "0"), ({}, 1, 2, "2,3"), ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 1, 2, "6,7")],
)
def test_every_gpu_worker_has_its_own_devices(inherited, index, tensor_parallel, visible) -> None:
    environment = worker_environment(Settings("cuda", 64, tensor_parallel), index, inherited)
    assert environment["CUDA_VISIBLE_DEVICES"] == visible


def test_more_workers_than_visible_gpus_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES names 1"):
        worker_environment(Settings("cuda", 64, 1), 1, {"CUDA_VISIBLE_DEVICES": "0"})


def model_folder(path: Path, config: str = '{"hidden_size": 8}', **files: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(config)
    (path / "tokenizer.json").write_text("{}")
    for name, text in files.items():
        (path / f"{name}.json").write_text(text)
    return path


def test_engine_key_is_shared_by_models_that_differ_in_weights_only(tmp_path: Path) -> None:
    base = engine_key(model_folder(tmp_path / "base"))
    saved_elsewhere = '{"dtype": "bfloat16", "hidden_size": 8, "transformers_version": "9"}'
    assert engine_key(model_folder(tmp_path / "a", saved_elsewhere)) == base
    assert engine_key(model_folder(tmp_path / "b", '{"hidden_size": 16}')) != base
    assert engine_key(model_folder(tmp_path / "c", generation_config='{"eos_token_id": 3}')) != base
    assert engine_key(model_folder(tmp_path / "d", tokenizer='{"added": 1}')) != base


@pytest.mark.parametrize(("device", "warm"), [("cpu", True), ("cuda", False)])
def test_a_worker_on_a_cpu_is_started_by_the_commands_warm_python(
    fake_worker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device, warm
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho by the warm one >&2\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(WARM_PYTHON, str(python))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with Generator(device, 1, 64, tmp_path / "log") as generator:
        assert list(ask(generator, "m")) == ["p0", "p1", "p2"]
    assert ("by the warm one" in (tmp_path / "log").read_text()) == warm
    python.unlink()  # as where the node's server is not there
    with Generator(device, 1, 64, tmp_path / "log") as generator:
        assert list(ask(generator, "m")) == ["p0", "p1", "p2"]
