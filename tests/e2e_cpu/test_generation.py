"""Generation with real vLLM on the CPU, checked against greedy decoding by transformers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from eval.generation.generate import Generator
from eval.records import Completion, Problem
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT
from tests.helpers.processes import children_that_run

pytestmark = pytest.mark.e2e

CONTEXT = 96
PROBLEMS = [
    Problem(f"p{i}", ({"role": "user", "content": f"Math: {i * 37 % 99}+{i * 11 % 97}"},), None)
    for i in range(12)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `a`, `b`: random Llamas that differ in weights alone; `wide`: another architecture."""
    import torch
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    characters = ["<pad>", "<eos>", "<bos>", *map(chr, range(32, 127)), "\n"]
    inner = Tokenizer(BPE(vocab={c: i for i, c in enumerate(characters)}, merges=[]))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    root = tmp_path_factory.mktemp("models")
    for seed, (name, hidden) in enumerate([("a", 64), ("b", 64), ("wide", 128)]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=hidden // 32,
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
            initializer_range=0.2,
        )
        LlamaForCausalLM(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    with Generator("cpu", 1, CONTEXT, tmp_path_factory.mktemp("logs") / "generation.log") as generator:
        yield generator


def greedy_by_transformers(folder: Path, max_tokens: int) -> dict[str, list[Completion]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = {}
    for problem in PROBLEMS:
        ids = tokenizer.apply_chat_template(
            problem.messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        new = model.generate(ids, do_sample=False, max_new_tokens=max_tokens)[0, ids.shape[1] :].tolist()
        text = tokenizer.decode(new, skip_special_tokens=True)
        answers[problem.id] = [Completion(text, len(new), new[-1] == tokenizer.eos_token_id)]
    return answers


def greedy(generator: Generator, folder: Path) -> dict[str, list[Completion]]:
    return generator.generate(folder, PROBLEMS, "greedy", 1, 1.0, 42, 24)


def sampled(generator: Generator, folder: Path, problems: list[Problem] = PROBLEMS, seed: int = 42):
    return generator.generate(folder, problems, "sampled", 3, 1.0, seed, 24)


def worker_pids() -> list[int]:
    return children_that_run("eval.generation.worker")


def wait_for_end(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.1)


def test_each_model_answers_with_its_own_weights_in_one_engine(generator: Generator, models: Path) -> None:
    answers = {name: greedy(generator, models / name) for name in ("a", "b")}
    [pid] = worker_pids()
    assert answers["a"] == greedy_by_transformers(models / "a", 24)
    assert answers["b"] == greedy_by_transformers(models / "b", 24)
    assert answers["a"] != answers["b"]
    assert greedy(generator, models / "a") == answers["a"]
    # Swapped in place: a new process would have another id.
    assert worker_pids() == [pid]
    assert generator.seconds["swap"] > 0


def test_samples_are_reproducible_in_any_order(generator: Generator, models: Path) -> None:
    first = sampled(generator, models / "a")
    assert all(len({answer.text for answer in answers}) == 3 for answers in first.values())
    assert sampled(generator, models / "a") == first
    some = PROBLEMS[7:2:-1]
    assert sampled(generator, models / "a", some) == {problem.id: first[problem.id] for problem in some}
    assert sampled(generator, models / "a", seed=43) != first


def test_samples_do_not_depend_on_the_model_before(generator: Generator, models: Path) -> None:
    first = sampled(generator, models / "b")
    sampled(generator, models / "a")
    assert sampled(generator, models / "b") == first


def test_a_model_written_anew_in_the_same_folder_is_loaded_anew(
    generator: Generator, models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    subprocess.run(["cp", "-r", models / "a", folder], check=True)
    before = greedy(generator, folder)
    (folder / "model.safetensors").unlink()
    subprocess.run(["cp", models / "b" / "model.safetensors", folder], check=True)
    assert greedy(generator, folder) == greedy(generator, models / "b") != before


def test_another_architecture_gets_an_engine_of_its_own(generator: Generator, models: Path) -> None:
    [before] = worker_pids()
    assert greedy(generator, models / "wide") == greedy_by_transformers(models / "wide", 24)
    [after] = worker_pids()
    assert before != after and not psutil.pid_exists(before)


def test_answers_end_at_the_context(generator: Generator, models: Path) -> None:
    problem = Problem("long", ({"role": "user", "content": "x" * (CONTEXT - 6)},), None)
    [answer] = generator.generate(models / "wide", [problem], "greedy", 1, 1.0, 42, 24)["long"]
    # 90 characters and the template's newline leave room for 5 tokens.
    assert answer.tokens == 5 and not answer.finished


def test_a_killed_worker_is_a_clean_error(generator: Generator, models: Path) -> None:
    greedy(generator, models / "wide")
    [pid] = worker_pids()
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="exit status -9"):
        generator.generate(
            models / "wide", PROBLEMS, "sampled", 50, 1.0, 1, 64, lambda _done: os.kill(pid, signal.SIGKILL)
        )
    assert time.monotonic() - started < 10
    assert worker_pids() == [] and not psutil.pid_exists(pid)


def test_a_prompt_without_room_for_an_answer_is_named(generator: Generator, models: Path) -> None:
    problem = Problem("endless", ({"role": "user", "content": "x" * CONTEXT},), None)
    with refuses("'endless'", "97 prompt tokens", error=RuntimeError):
        generator.generate(models / "a", [problem], "greedy", 1, 1.0, 42, 24)


def test_a_worker_ends_with_its_killed_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        import psutil
        from eval.generation.generate import Generator

        generator = Generator("cpu", 1, 64, Path({str(tmp_path / "generation.log")!r}))
        generator.start()
        print(psutil.Process().children()[0].pid, flush=True)
        time.sleep(600)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pid = int(parent.stdout.readline())
    folder = Path(psutil.Process(pid).environ()["TMPDIR"])
    assert folder.exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for_end(pid, 15)
    assert not folder.exists()


def test_no_worker_outlives_the_generator(models: Path, tmp_path: Path) -> None:
    others = worker_pids()
    with Generator("cpu", 1, CONTEXT, tmp_path / "generation.log") as generator:
        generator.start()
        [pid] = set(worker_pids()) - set(others)
        time.sleep(0.5)
        descendants = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert not any(psutil.pid_exists(pid) for pid in descendants)
