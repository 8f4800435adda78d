"""What the sample cache takes for the same work, and what it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.digests import file_sha256, json_sha256
from configs.prompt_mode import PLAIN, PromptMode
from configs.schema import Hardware
from eval import jobs, suite
from eval.generation.model_folders import model_digest
from eval.records import Verdict, read_samples
from tests.helpers.suite_fakes import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_second_evaluation_generates_and_grades_nothing(bench: Bench) -> None:
    first = bench.evaluate()
    assert (bench.generated, bench.graded) == (2, 1)  # a greedy and a sampled call; one grading
    assert bench.evaluate() == first
    assert (bench.generated, bench.graded) == (2, 1)


GENERATION_CHANGES = {
    "weights": lambda bench: (bench.model / "model.safetensors").write_bytes(b"weights B"),
    "tokenizer": lambda bench: (bench.model / "tokenizer.json").write_text('{"b": 1}'),
    "config": lambda bench: (bench.model / "config.json").write_text('{"max_position_embeddings": 4096}'),
    "generation config": lambda bench: (bench.model / "generation_config.json").write_text("{}"),
    "chat template": lambda bench: (bench.model / "chat_template.jinja").write_text("{{ messages }}!"),
    "benchmark": lambda bench: setattr(bench, "digest", "other problems"),
    "greedy": lambda bench: bench.set(greedy=False),
    "number of samples": lambda bench: bench.set(samples_per_problem=3),
    "temperature": lambda bench: bench.set(temperature=0.5),
    "seed": lambda bench: bench.set(seed=43),
    "answer length": lambda bench: setattr(bench, "max_tokens", 17),
    "device": lambda bench: setattr(bench, "hardware", Hardware(device="cuda")),
    "vllm": lambda bench: bench.versions.update(vllm="0.99"),
    "template's arguments": lambda bench: setattr(bench, "modes", {"maths": PromptMode({"think": True})}),
    "system prompt": lambda bench: setattr(bench, "modes", {"maths": PromptMode({}, "Be short.")}),
    "transformers": lambda bench: bench.versions.update(transformers="99"),
}


@pytest.mark.parametrize("change", GENERATION_CHANGES)
def test_whatever_changes_the_answers_generates_again(bench: Bench, change: str) -> None:
    bench.evaluate()
    bench.generated = bench.graded = 0
    GENERATION_CHANGES[change](bench)
    bench.evaluate()
    assert bench.generated >= 1 and bench.graded == 1
    bench.generated = bench.graded = 0
    bench.evaluate()
    assert (bench.generated, bench.graded) == (0, 0)


def test_another_domains_mode_changes_nothing(bench: Bench) -> None:
    bench.evaluate()
    bench.modes = {"maths": PLAIN, "code": PromptMode({"think": True}, "Be short.")}
    bench.evaluate()
    assert (bench.generated, bench.graded) == (2, 1)


def test_without_a_mode_the_key_is_that_of_before_there_were_modes(bench: Bench) -> None:
    bench.evaluate()
    here = Path(jobs.__file__).parent
    code = [[str(file.relative_to(here)), file_sha256(file)] for file in sorted(here.glob("generation/*.py"))]
    parts = {
        "model": model_digest(bench.model),
        "benchmark": ["bench", "problems"],
        "chat_template": {},
        "sampling": [True, 2, 1.0, 42],
        "max_tokens": 16,
        "context": None,
        "device": ["cpu", "float32"],
        "tensor_parallel": 1,
        "versions": {package: "1" for package in jobs.GENERATION_PACKAGES},
        "code": json_sha256(code),
    }
    key = jobs.read_key(bench.samples / "m" / "bench.jsonl").generation
    assert key == json_sha256(parts)
    (bench.samples / "m" / "bench.key.json").unlink()
    bench.modes = {"maths": PromptMode({"think": True}, "Be short.")}
    bench.evaluate()
    changed = parts | {"chat_template": {"think": True}, "system_prompt": "Be short."}
    assert jobs.read_key(bench.samples / "m" / "bench.jsonl").generation == json_sha256(changed)


@pytest.mark.parametrize("package", ["math-verify", "evalplus"])
def test_another_grader_grades_the_same_answers_again(bench: Bench, package: str) -> None:
    before = bench.evaluate()
    bench.versions[package] = "99"
    bench.verdict = Verdict.FAIL
    after = bench.evaluate()
    assert (bench.generated, bench.graded) == (2, 2)
    assert after == {
        id: [replace(sample, verdict=Verdict.FAIL) for sample in samples] for id, samples in before.items()
    }
    bench.evaluate()
    assert (bench.generated, bench.graded) == (2, 2)


def test_answers_without_a_verdict_are_graded_again(bench: Bench) -> None:
    bench.verdict = Verdict.UNSCORED
    bench.evaluate()
    bench.verdict = Verdict.PASS
    [samples] = bench.evaluate().values()
    assert (bench.generated, bench.graded) == (2, 2)
    assert {sample.verdict for sample in samples} == {Verdict.PASS}


def test_what_changes_no_answer_reuses_them(bench: Bench) -> None:
    bench.evaluate()
    bench.hardware = Hardware(device="cpu", gpus=2, tokens_per_device=77)
    (bench.model / "README.md").write_text("a model card")
    moved = bench.model.rename(bench.model.with_name("moved"))
    bench.model = moved
    bench.evaluate()
    assert (bench.generated, bench.graded) == (2, 1)


def test_a_shorter_context_of_another_model_limits_all_answers(bench: Bench) -> None:
    bench.evaluate()
    short = bench.make_model("short", '{"max_position_embeddings": 32}')
    results = bench.evaluate(extra=[suite.ModelUnderTest("short", short, "baseline")])
    assert len(results) == 2
    assert bench.generated == 2 + 4  # the first model answers again, under the limit of the second
    assert bench.generators[-1]["max_model_len"] == 32


@pytest.mark.parametrize("damage", ["truncated samples", "foreign samples", "no sidecar", "broken sidecar"])
def test_damaged_files_are_not_trusted(bench: Bench, damage: str) -> None:
    [before] = bench.evaluate().values()
    samples, sidecar = bench.samples / "m" / "bench.jsonl", bench.samples / "m" / "bench.key.json"
    text = samples.read_text()
    if damage == "truncated samples":
        samples.write_text(text[: len(text) // 2])
    elif damage == "foreign samples":
        samples.write_text(text.replace("p1", "p7"))
    elif damage == "no sidecar":
        sidecar.unlink()
    else:
        sidecar.write_text("[]")
    [after] = bench.evaluate().values()
    assert bench.generated == 4
    assert after == before == read_samples(samples)


def test_runs_share_answers_through_the_cache_folder(bench: Bench, tmp_path: Path) -> None:
    bench.cache = tmp_path / "shared"
    first = bench.evaluate()
    bench.samples = tmp_path / "another run"
    assert bench.evaluate() == first
    assert (bench.generated, bench.graded) == (2, 1)
    # The second run has the files of its own, valid without the shared folder.
    bench.cache = None
    assert bench.evaluate() == first
    assert (bench.generated, bench.graded) == (2, 1)


def test_samples_of_a_run_join_the_cache_folder(bench: Bench, tmp_path: Path) -> None:
    bench.evaluate()
    bench.cache = tmp_path / "shared"
    bench.evaluate()
    bench.samples = tmp_path / "another run"
    bench.evaluate()
    assert (bench.generated, bench.graded) == (2, 1)


def test_the_cache_folder_does_not_mix_models(bench: Bench, tmp_path: Path) -> None:
    bench.cache = tmp_path / "shared"
    bench.evaluate()
    (bench.model / "model.safetensors").write_bytes(b"weights B")
    bench.samples = tmp_path / "another run"
    bench.evaluate()
    assert bench.generated == 4
    assert len(list(bench.cache.glob("*.jsonl"))) == 2


def test_a_failed_write_leaves_the_old_samples_valid(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [before] = bench.evaluate().values()
    bench.set(seed=43)

    def no_space(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write_samples", no_space)
        with pytest.raises(OSError, match="no space"):
            bench.evaluate()
    bench.set(seed=42)
    bench.generated = 0
    [after] = bench.evaluate().values()
    assert bench.generated == 0 and after == before


def test_a_crash_between_samples_and_sidecar_is_a_miss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.evaluate()
    bench.set(seed=43)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write_json", crash)
        patch.setattr(jobs, "write_samples", lambda path, samples: path.write_text("{}\n"))
        with pytest.raises(KeyboardInterrupt):
            bench.evaluate()
    bench.set(seed=42)
    bench.generated = 0
    bench.evaluate()
    assert bench.generated == 2


def test_a_failed_grading_keeps_the_answers(bench: Bench) -> None:
    bench.verdict = RuntimeError("the sandbox is gone")
    with pytest.raises(RuntimeError, match="the sandbox is gone"):
        bench.evaluate()
    bench.verdict = Verdict.PASS
    bench.evaluate()
    assert bench.generated == 2


def test_the_sidecar_names_both_keys(bench: Bench) -> None:
    bench.evaluate()
    sidecar = json.loads((bench.samples / "m" / "bench.key.json").read_text())
    assert set(sidecar) == {"generation", "grading", "samples"}
    assert {len(value) for value in sidecar.values()} == {64}
    assert [path.name for path in sorted((bench.samples / "m").iterdir())] == [
        "bench.jsonl",
        "bench.key.json",
    ]
