"""What is refused before Ray starts, and what is only noted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from configs.load import ConfigError, load_config
from merging import preflight as pf
from merging.lock import RunLock, check_free
from tests.unit.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model


@pytest.fixture
def config(tmp_path):
    return config_dict(tmp_path)


@pytest.fixture
def run(tmp_path):
    """preflight of a config in tmp_path."""

    def run(config, *overrides):
        return pf.preflight(load_config(write_config(tmp_path, config), overrides), tmp_path / "runs/demo")

    return run


def problems_of(run, config, *overrides) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        run(config, *overrides)
    return caught.value.problems


# -------------------------------------------------------------------------------------------- found


def test_finds_models_prompts_and_lengths(run, config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", [*sum_rows(4), {"prompt": "100+1", "answer": "101"}, *sum_rows(1)])
    found = run(config)
    assert found.student == tmp_path / "student"
    assert set(found.fingerprints) == {"student", "math", "code"}
    assert found.counts() == {"math": 5, "code": 6}
    (dropped,) = found.dropped
    assert (dropped.prompt.row, dropped.domain, dropped.reason) == (6, "math", "duplicate")
    assert dropped.detail == f"repeats {tmp_path}/math.jsonl, row 1"
    assert found.longest_prompt == {"math": 6, "code": 7}  # characters and the template's newline
    assert found.notes == ["1 duplicate prompts dropped (math 1)"]
    assert not (tmp_path / "runs").exists()  # nothing is written


def test_memory_and_disk_estimates_by_hand(run, config):
    found = run(config)
    parameters = 99 * 4
    assert found.memory_bytes == 4 * 2**30 + 20 * parameters + 4 * 3 * parameters
    # one training and the average: two checkpoints of 12 bytes and two exports of 4 bytes a parameter
    assert found.disk_bytes == parameters * (24 + 8) + 2**28
    # one more training, and two merges of weights
    several = run(config, "baselines=[opd, ties, dare]")
    assert several.disk_bytes == parameters * (2 * 24 + 4 * 4) + 2**28
    trained = run(config, "baselines=[opd, {kind: grpo, samples_per_prompt: 2}]")
    assert trained.disk_bytes == parameters * (3 * 24 + 3 * 4) + 2**28


def test_overlap_with_a_benchmark_is_noted(run, config, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "bench.jsonl", sum_rows(1))
    problems = [
        SimpleNamespace(id=text, messages=({"role": "user", "content": text},)) for text in ("3+1", "90+1")
    ]
    opened = []

    def open_benchmark(benchmark):
        opened.append(benchmark.path)
        return SimpleNamespace(problems=problems)

    monkeypatch.setitem(sys.modules, "eval.benchmarks", SimpleNamespace(open_benchmark=open_benchmark))
    config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": "bench.jsonl"}]
    found = run(config)
    assert opened == [tmp_path / "bench.jsonl"]
    (note,) = found.notes
    assert note.startswith("1 training prompts repeat problems of benchmark sums (first: ")
    assert "math.jsonl, row 4, exact, problem 3+1; by domain: math 1)" in note
    assert note.endswith("; its scores may be inflated")
    assert found.counts()["math"] == 6 and found.dropped == []


# ------------------------------------------------------------------------------------------ refused


def test_every_problem_is_reported_at_once(run, config):
    config["domains"]["math"]["expert"]["path"] = "./none"
    config["domains"]["code"]["prompts"]["path"] = "none.jsonl"
    config["training"]["max_response_tokens"] = 64
    problems = problems_of(run, config)
    assert [problem.split(":")[0] for problem in problems[:1]] == ["domains.math.expert"]
    assert sum("no such model folder" in problem for problem in problems) == 1
    assert sum("context of 64 tokens is too short" in problem for problem in problems) == 2
    assert sum("no such prompt file" in problem for problem in problems) == 1
    assert len(problems) == 4


def test_a_long_prompt_is_refused_with_its_row(run, config, tmp_path):
    rows = [{"prompt": text, "answer": "x"} for text in ("a", "b", "123456", "c", "d")]
    write_jsonl(tmp_path / "code.jsonl", rows)
    (problem,) = problems_of(run, config, "training.max_prompt_tokens=6")
    assert problem == (
        f"{tmp_path}/code.jsonl, row 3: the prompt has 7 tokens with the chat template (the longest of "
        "domain 'code'), above training.max_prompt_tokens = 6; training.too_long: drop leaves such "
        "prompts out"
    )


def test_longest_prompt_is_by_tokens_not_by_bytes(run, config, tmp_path, monkeypatch):
    """One unknown character of three bytes is one token; every batch that could hold a longer one is read."""
    monkeypatch.setattr("merging.lengths.BATCH", 1)
    rows = [{"prompt": text, "answer": "x"} for text in ("\u20ac" * 5, "a" * 10, "b" * 14, "\u20ac" * 6, "c")]
    write_jsonl(tmp_path / "code.jsonl", rows)
    assert run(config).longest_prompt["code"] == 15


def test_a_prompt_at_the_limit_is_allowed(run, config):
    assert run(config, "training.max_prompt_tokens=7").longest_prompt["code"] == 7


def test_a_template_that_raises_is_refused(run, config, tmp_path):
    template = "{{ raise_exception('no system role here') }}"
    for name in ("student", "math_expert", "code_expert"):
        write_model(tmp_path / name, template=template)
    (problem,) = problems_of(run, config)
    assert problem == (
        f"{tmp_path}/math.jsonl, row 1: the student's chat template ({tmp_path}/student) refuses the prompt: "
        "no system role here"
    )


def test_student_without_template_is_refused(run, config, tmp_path):
    for name in ("student", "math_expert", "code_expert"):
        write_model(tmp_path / name, template=None)
    (problem,) = problems_of(run, config)
    assert problem == f"student ({tmp_path}/student): has no chat template, so it cannot be prompted"


def test_broken_model_config_is_refused(run, config, tmp_path):
    (tmp_path / "student/tokenizer.json").write_text('{"model": {"vocab": {"<eos>": 0}}}')
    problems = problems_of(run, config)
    assert any("transformers cannot load its tokenizer" in problem for problem in problems)


def test_rl_expert_needs_answers(run, config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", [*sum_rows(1), {"prompt": "1+2", "answer": None}])
    assert run(config).counts()["math"] == 2  # an expert that exists needs none
    config["domains"]["math"]["expert"] = {"kind": "rl"}
    (problem,) = problems_of(run, config)
    assert problem.endswith(
        "math.jsonl, row 2: no answer, and reward 'exact' needs one to train the expert of domain 'math'"
    )


def test_grpo_needs_answers_in_every_domain(run, config, tmp_path):
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": "a", "answer": "x"}, {"prompt": "b", "answer": None}])
    run(config, "baselines=[opd]")
    (problem,) = problems_of(run, config, "baselines=[{kind: grpo, samples_per_prompt: 2}]")
    assert problem.endswith(
        "code.jsonl, row 2: no answer, and reward 'exact' needs one to train baseline `grpo` on the prompts "
        "of domain 'code'"
    )


def test_memory_of_weights_that_are_merged(run, config, tmp_path):
    """Eight adapters score as adapters (of the tiny model: no weights), and merge as eight full models."""
    expert = {"kind": "rl", "steps": 2, "prompts_per_step": 4, "lora_rank": 4}
    config["domains"] = {}
    for number in range(8):
        write_jsonl(
            tmp_path / f"{number}.jsonl", [{"prompt": f"{number}+{i}", "answer": "1"} for i in range(4)]
        )
        prompts = {"kind": "file", "path": f"{number}.jsonl"}
        config["domains"][f"d{number}"] = {"expert": expert, "prompts": prompts, "reward": "exact"}
    parameters = 99 * 4
    assert run(config, "baselines=[opd]").memory_bytes == 4 * 2**30 + (20 + 4) * parameters
    assert run(config, "baselines=[ties]").memory_bytes == 4 * 2**30 + 4 * (8 + 3) * parameters


def test_an_rl_experts_own_response_limit_counts(run, config):
    config["domains"]["math"]["expert"] = {"kind": "rl", "max_response_tokens": 48}
    problems = problems_of(run, config)
    assert any(p.startswith("student") and "responses of 48" in p for p in problems)


def test_whole_distributions_must_be_of_a_size_that_can_be_sent(run, config):
    """1024 rollouts x 6000 tokens x 99 entries x 4 bytes are 2.27 GiB."""
    big = ("training.prompts_per_step=1024", "training.max_response_tokens=6000")
    (only,) = [p for p in problems_of(run, config, *big, "objective.estimator=full") if "estimator" in p]
    assert only.startswith(
        "objective.estimator: full sends 1024 rollouts x 6000 tokens x 99 vocabulary entries"
    )
    assert "up to 2.3 GiB a step (at most 2)" in only and "{kind: topk, k: 64}" in only
    assert run(config, "objective.estimator=full").student


def test_topk_keeps_fewer_tokens_than_there_are(run, config):
    (only,) = problems_of(run, config, "objective.estimator={kind: topk, k: 99}")
    assert only.startswith("objective.estimator.k = 99: the student's vocabulary has 99 tokens")
    assert run(config, "objective.estimator={kind: topk, k: 98}").student


def test_a_references_tokenizer_must_be_the_students_and_its_folder_is_found(run, config, tmp_path):
    write_model(tmp_path / "base", hidden=8, template=None)  # never prompted: no template, another size
    config["domains"]["math"]["expert"]["base"] = "./base"
    config["domains"]["code"]["expert"]["base"] = "./student"
    config["objective"] = {"reference": "teacher_base"}
    found = run(config)
    loaded = load_config(write_config(tmp_path, config)).config
    resolved = found.with_folders(loaded)
    assert resolved.reference_of("math") == str(tmp_path / "base")
    assert found.fingerprints["base of math"].parameters == 99 * 8
    # two teachers, and two references: the larger base and the student
    assert found.memory_bytes == 4 * 2**30 + 20 * 99 * 4 + 4 * (2 * 99 * 4 + 99 * 8 + 99 * 4)
    write_model(tmp_path / "base", extra_tokens=("<x>",))
    (only,) = problems_of(run, config)
    assert only.startswith("domains.math.expert.base (") and "another tokenizer than the student's" in only


def test_one_reference_for_all_is_found_from_the_configs_folder(run, config, tmp_path):
    write_model(tmp_path / "other", value=0.1)
    config["objective"] = {"reference": {"kind": "model", "path": "./other"}}
    loaded = load_config(write_config(tmp_path, config)).config
    assert loaded.reference_of("math") == str(tmp_path / "other")
    assert run(config).with_folders(loaded).reference_of("code") == str(tmp_path / "other")
    config["objective"]["reference"]["path"] = "./absent"
    (only,) = problems_of(run, config)
    assert only.startswith("objective.reference: ") and "absent" in only


def test_average_needs_one_shape(run, config, tmp_path):
    write_model(tmp_path / "code_expert", hidden=8)
    (problem,) = problems_of(run, config)
    assert problem.startswith("baselines: `average` needs experts of the student's shape")
    assert "domains.code.expert" in problem
    run(config, "baselines=[]")
    (problem,) = problems_of(run, config, "baselines=[ties, opd, dare]")
    assert problem.startswith("baselines: `ties`, `dare` need experts of the student's shape")
    assert problem.endswith("leave `ties`, `dare` out (baselines: [opd])")
    run(config, "baselines=[opd]")


def test_batches_must_divide_over_the_devices(run, config):
    (problem,) = problems_of(run, config, "hardware.gpus=3")
    assert "training: prompts_per_step * samples_per_prompt = 4 is no multiple of the 3 devices" in problem
    (problem,) = problems_of(run, config, "hardware.gpus=2", "hardware.rollout_tensor_parallel=4")
    assert "hardware.rollout_tensor_parallel = 4 must divide the 2 devices" in problem


def test_missing_gpus_are_refused(run, config, monkeypatch):
    monkeypatch.setattr(pf, "visible_gpus", lambda: 1)
    (problem,) = problems_of(run, config, "hardware.device=cuda", "hardware.gpus=2")
    assert problem.startswith("hardware.gpus = 2, and this machine shows 1 NVIDIA GPUs")
    assert run(config, "hardware.device=cuda").memory_bytes is None
    cluster = ("hardware.device=cuda", "hardware.gpus=4", "hardware.ray_address=x:1")
    assert run(config, *cluster).memory_bytes is None


def test_visible_gpus_follow_the_environment(monkeypatch):
    monkeypatch.setattr(pf.glob, "glob", lambda _: ["/dev/nvidia0", "/dev/nvidia1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert pf.visible_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert pf.visible_gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pf.visible_gpus() == 0


def test_too_little_memory_is_refused(run, config, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    (problem,) = problems_of(run, config)
    assert problem.startswith("memory: about 4.0 GiB needed") and problem.endswith("1.0 GiB available")


def test_too_little_disk_is_refused(run, config, monkeypatch):
    monkeypatch.setattr(pf.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    (problem,) = problems_of(run, config)
    assert "about 0.3 GiB of disk needed, 0.0 GiB free" in problem


def test_missing_benchmark_file_is_refused(run, config):
    config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": "none.jsonl"}]
    (problem,) = problems_of(run, config)
    assert problem.startswith("domains.math.benchmarks[0]: ")
    assert problem.endswith("none.jsonl: no such benchmark file")


def test_unreachable_benchmark_is_refused(run, config, monkeypatch):
    def open_benchmark(_benchmark):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "eval.benchmarks", SimpleNamespace(open_benchmark=open_benchmark))
    config["domains"]["math"]["benchmarks"] = ["aime24"]
    (problem,) = problems_of(run, config)
    assert problem == (
        "domains.math.benchmarks[0]: benchmark 'aime24' cannot be loaded: offline; `path` names a local copy"
    )


# --------------------------------------------------------------------------------------------- lock

HOLD = """
import sys, time
from merging.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another live process that holds tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_live_run_keeps_others_out(holder, tmp_path):
    for attempt in (lambda: RunLock(tmp_path / "run").__enter__(), lambda: check_free(tmp_path / "run")):
        with pytest.raises(ConfigError, match=rf"in use by a live run \(process {holder.pid}, started 20"):
            attempt()


def test_kill_9_frees_the_folder(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    check_free(tmp_path / "run")
    with RunLock(tmp_path / "run"):
        pass


def test_the_holder_itself_may_preflight(tmp_path):
    with RunLock(tmp_path / "run"):
        check_free(tmp_path / "run")
        with pytest.raises(ConfigError, match="in use by a live run"), RunLock(tmp_path / "run"):
            pass
        check_free(tmp_path / "run")
    with RunLock(tmp_path / "run"):
        pass


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_free(tmp_path / "run")
