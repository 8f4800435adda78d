"""What is refused before Ray starts, and what is only noted."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from configs.load import load_config
from merging.checks import machine
from merging.checks.preflight import preflight
from tests.helpers.messages import problems_of, say_each, says
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model
from tests.helpers.tiny_model import parameters as parameters_of


@pytest.fixture
def config(tmp_path):
    return config_dict(tmp_path)


@pytest.fixture
def run(tmp_path):
    """preflight of a config in tmp_path."""

    def run(config, *overrides):
        return preflight(load_config(write_config(tmp_path, config), overrides), tmp_path / "runs/demo")

    return run


# -------------------------------------------------------------------------------------------- found


def test_finds_models_prompts_and_lengths(run, config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", [*sum_rows(4), {"prompt": "100+1", "answer": "101"}, *sum_rows(1)])
    found = run(config)
    assert found.student == tmp_path / "student"
    assert set(found.fingerprints) == {"student", "math", "code"}
    assert found.counts() == {"math": 5, "code": 6}
    (dropped,) = found.dropped
    assert (dropped.prompt.row, dropped.domain, dropped.reason) == (6, "math", "duplicate")
    says(dropped.detail, f"{tmp_path}/math.jsonl, row 1")
    assert found.longest_prompt == {"math": 6, "code": 7}  # characters and the template's newline
    say_each(found.notes, ("1 duplicate", "math 1"))
    assert not (tmp_path / "runs").exists()  # nothing is written


def test_memory_and_disk_estimates_by_hand(run, config):
    found = run(config)
    parameters = parameters_of(99)
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
        return SimpleNamespace(problems=problems, asked_in=lambda mode: SimpleNamespace(problems=problems))

    monkeypatch.setitem(sys.modules, "eval.benchmarks", SimpleNamespace(open_benchmark=open_benchmark))
    config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": "bench.jsonl"}]
    found = run(config)
    assert opened == [tmp_path / "bench.jsonl"]
    facts = ("1 training prompts", "benchmark sums", "math.jsonl, row 4", "exact", "problem 3+1", "math 1")
    say_each(found.notes, (*facts, "inflated"))
    assert found.counts()["math"] == 6 and found.dropped == ()


# ------------------------------------------------------------------------------------------ refused


def test_validation_that_repeats_a_benchmark_may_not_choose_lambda(run, config, tmp_path):
    rows = [{"id": str(n), "prompt": f"{n}+1", "answer": str(n + 1)} for n in (20, 30)]
    write_jsonl(tmp_path / "bench.jsonl", rows[1:])
    write_jsonl(tmp_path / "valid.jsonl", rows)
    config["domains"]["math"] |= {
        "benchmarks": [{"kind": "math", "name": "sums", "path": "bench.jsonl"}],
        "validation": {"kind": "file", "path": "valid.jsonl"},
    }
    assert not run(config).problems, "a lambda that is given reads no validation"
    refused = problems_of(run, config, "objective.reward_scale=auto")
    says(" ".join(refused), "domains.math.validation: 1 of its 2 prompts", "such as 30 of sums", "auto")
    write_jsonl(tmp_path / "valid.jsonl", rows[:1])
    assert not run(config, "objective.reward_scale=auto").problems


def test_every_problem_is_reported_at_once(run, config):
    config["domains"]["math"]["expert"]["path"] = "./none"
    config["domains"]["code"]["prompts"]["path"] = "none.jsonl"
    config["training"]["max_response_tokens"] = 64
    problems = problems_of(run, config)
    say_each(
        problems,
        ("domains.math.expert", "/none", "no such"),
        ("student", "64 tokens"),
        ("domains.code.expert", "64 tokens"),
        ("none.jsonl", "no such"),
    )


def test_a_long_prompt_is_refused_with_its_row(run, config, tmp_path):
    rows = [{"prompt": text, "answer": "x"} for text in ("a", "b", "123456", "c", "d")]
    write_jsonl(tmp_path / "code.jsonl", rows)
    say_each(
        problems_of(run, config, "training.max_prompt_tokens=6"),
        (
            f"{tmp_path}/code.jsonl, row 3", "7 tokens", "domain 'code'", "training.max_prompt_tokens = 6",
            "training.too_long: drop",
        ),
    )  # fmt: skip


def test_longest_prompt_is_by_tokens_not_by_bytes(run, config, tmp_path, monkeypatch):
    """One unknown character of three bytes is one token; every batch that could hold a longer one is read."""
    monkeypatch.setattr("routing.lengths.BATCH", 1)
    rows = [{"prompt": text, "answer": "x"} for text in ("\u20ac" * 5, "a" * 10, "b" * 14, "\u20ac" * 6, "c")]
    write_jsonl(tmp_path / "code.jsonl", rows)
    assert run(config).longest_prompt["code"] == 15


def test_a_prompt_at_the_limit_is_allowed(run, config):
    assert run(config, "training.max_prompt_tokens=7").longest_prompt["code"] == 7


def test_a_template_that_raises_is_refused(run, config, tmp_path):
    template = "{{ raise_exception('no system role here') }}"
    for name in ("student", "math_expert", "code_expert"):
        write_model(tmp_path / name, template=template)
    facts = (f"{tmp_path}/math.jsonl, row 1", "chat template", f"{tmp_path}/student", "no system role here")
    say_each(problems_of(run, config), facts)


def test_student_without_template_is_refused(run, config, tmp_path):
    for name in ("student", "math_expert", "code_expert"):
        write_model(tmp_path / name, template=None)
    say_each(problems_of(run, config), (f"student ({tmp_path}/student)", "no chat template"))


def test_broken_model_config_is_refused(run, config, tmp_path):
    (tmp_path / "student/tokenizer.json").write_text('{"model": {"vocab": {"<eos>": 0}}}')
    problems = problems_of(run, config)
    assert any("student" in problem and "tokenizer" in problem for problem in problems)


def test_rl_expert_needs_answers(run, config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", [*sum_rows(1), {"prompt": "1+2", "answer": None}])
    assert run(config).counts()["math"] == 2  # an expert that exists needs none
    config["domains"]["math"]["expert"] = {"kind": "rl"}
    facts = ("math.jsonl, row 2", "no answer", "reward 'exact'", "expert of domain 'math'")
    say_each(problems_of(run, config), facts)


def test_grpo_needs_answers_in_every_domain(run, config, tmp_path):
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": "a", "answer": "x"}, {"prompt": "b", "answer": None}])
    run(config, "baselines=[opd]")
    say_each(
        problems_of(run, config, "baselines=[{kind: grpo, samples_per_prompt: 2}]"),
        ("code.jsonl, row 2", "no answer", "reward 'exact'", "`grpo`", "domain 'code'"),
    )


@pytest.mark.parametrize(
    ("overrides", "models"),
    [
        (("objective.reward_scale=1",), 2),  # two teachers
        (("objective.reward_scale=0",), 1),  # the reference
        (("objective.reward_scale=0", "baselines=[opd]"), 2),
        (("objective.reward_scale=1", "baselines=[interpolation]"), 3),
        (("objective.reward_scale=auto",), 3),
    ],
)
def test_models_that_are_never_read_take_no_memory(run, config, overrides, models):
    parameters = parameters_of(99)
    found = run(config, "baselines=[]", *overrides)
    assert found.memory_bytes == 4 * 2**30 + (20 + 4 * models) * parameters


def test_memory_of_weights_that_are_merged(run, config, tmp_path):
    """Eight adapters score as adapters, and merge as eight full models."""
    expert = {"kind": "rl", "steps": 2, "prompts_per_step": 4, "lora_rank": 4}
    config["domains"] = {}
    for number in range(8):
        write_jsonl(
            tmp_path / f"{number}.jsonl", [{"prompt": f"{number}+{i}", "answer": "1"} for i in range(4)]
        )
        prompts = {"kind": "file", "path": f"{number}.jsonl"}
        config["domains"][f"d{number}"] = {"expert": expert, "prompts": prompts, "reward": "exact"}
    parameters = parameters_of(99)
    adapter = 4 * (4 * (4 + 4) + 3 * (4 + 8))  # rank * (rows + columns): four of attention, three behind
    assert run(config, "baselines=[opd]").memory_bytes == 4 * 2**30 + (20 + 4) * parameters + 4 * 8 * adapter
    assert run(config, "baselines=[ties]").memory_bytes == 4 * 2**30 + 4 * (8 + 3) * parameters


def test_an_rl_experts_own_response_limit_counts(run, config):
    config["domains"]["math"]["expert"] = {"kind": "rl", "max_response_tokens": 48}
    problems = problems_of(run, config)
    assert any(p.startswith("student") and "48" in p for p in problems)


def test_whole_distributions_must_be_of_a_size_that_can_be_sent(run, config):
    """1024 rollouts x 6000 tokens x 99 entries x 4 bytes are 2.27 GiB."""
    big = ("training.prompts_per_step=1024", "training.max_response_tokens=6000")
    (only,) = [p for p in problems_of(run, config, *big, "objective.estimator=full") if "estimator" in p]
    assert only.startswith("objective.estimator: ")
    says(only, "full", "1024 rollouts", "6000 tokens", "99 vocabulary", "2.3 GiB", "2", "{kind: topk, k: 64}")
    assert run(config, "objective.estimator=full").student


def test_topk_keeps_fewer_tokens_than_there_are(run, config):
    problems = problems_of(run, config, "objective.estimator={kind: topk, k: 99}")
    say_each(problems, ("objective.estimator.k = 99", "vocabulary", "99 tokens"))
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
    small = parameters_of(99)
    assert found.fingerprints["base of math"].parameters == parameters_of(99, 8)
    # two teachers, and two references: the larger base and the student
    assert found.memory_bytes == 4 * 2**30 + 20 * small + 4 * (2 * small + parameters_of(99, 8) + small)
    write_model(tmp_path / "base", extra_tokens=("<x>",))
    say_each(problems_of(run, config), (f"domains.math.expert.base ({tmp_path}/base)", "tokenizer"))


def test_one_reference_for_all_is_found_from_the_configs_folder(run, config, tmp_path):
    write_model(tmp_path / "other", value=0.1)
    config["objective"] = {"reference": {"kind": "model", "path": "./other"}}
    loaded = load_config(write_config(tmp_path, config)).config
    assert loaded.reference_of("math") == str(tmp_path / "other")
    assert run(config).with_folders(loaded).reference_of("code") == str(tmp_path / "other")
    config["objective"]["reference"]["path"] = "./absent"
    say_each(problems_of(run, config), ("objective.reference", "absent"))


def test_average_needs_one_shape(run, config, tmp_path):
    write_model(tmp_path / "code_expert", hidden=8)
    say_each(problems_of(run, config), ("baselines", "`average`", "shape", "domains.code.expert"))
    run(config, "baselines=[]")
    problems = problems_of(run, config, "baselines=[ties, opd, dare]")
    say_each(problems, ("`ties`, `dare`", "shape", "domains.code.expert", "baselines: [opd]"))
    run(config, "baselines=[opd]")


def test_batches_must_divide_over_the_devices(run, config):
    facts = ("training", "prompts_per_step * samples_per_prompt = 4", "multiple", "3 devices")
    say_each(problems_of(run, config, "hardware.gpus=3"), facts)
    cuda = ("hardware.device=cuda", "hardware.gpus=2")
    problems = problems_of(run, config, *cuda, "hardware.rollout_tensor_parallel=4")
    devices = ("hardware.rollout_tensor_parallel = 4", "divide", "2 devices")
    say_each(problems, devices, ("hardware.rollout_tensor_parallel = 4", "divide", "1 attention heads"))


def test_missing_gpus_are_refused(run, config, monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda: 1)
    problems = problems_of(run, config, "hardware.device=cuda", "hardware.gpus=2")
    say_each(problems, ("hardware.gpus = 2", "this machine", "1 NVIDIA"))
    assert run(config, "hardware.device=cuda").memory_bytes is None
    cluster = ("hardware.device=cuda", "hardware.gpus=4", "hardware.ray_address=x:1")
    assert run(config, *cluster).memory_bytes is None


def test_a_joined_cluster_needs_no_device_here_and_an_address_of_its_node(run, config, monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    cluster = ("hardware.device=cuda", "hardware.gpus=4", "hardware.ray_address=x:1")
    run(config, *cluster)
    run(config, *cluster, "objective.reward_scale=auto")  # models are read on the cluster
    client = (*cluster[:2], "hardware.ray_address='ray://x:10001'")
    say_each(problems_of(run, config, *client), ("ray://x:10001", "client", "host:port"))


def test_visible_gpus_follow_the_environment(monkeypatch):
    monkeypatch.setattr(machine.glob, "glob", lambda _: ["/dev/nvidia0", "/dev/nvidia1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.visible_gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.visible_gpus() == 0


def test_too_little_memory_is_refused(run, config, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    say_each(problems_of(run, config), ("memory", "4.0 GiB needed", "1.0 GiB available"))


def test_too_little_disk_is_refused(run, config, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    say_each(problems_of(run, config), ("disk", "0.3 GiB", "needed", "0.0 GiB free"))


def test_missing_benchmark_file_is_refused(run, config):
    config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": "none.jsonl"}]
    say_each(problems_of(run, config), ("domains.math.benchmarks[0]", "none.jsonl", "no such"))


def test_unreachable_benchmark_is_refused(run, config, monkeypatch):
    def open_benchmark(_benchmark):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "eval.benchmarks", SimpleNamespace(open_benchmark=open_benchmark))
    config["domains"]["math"]["benchmarks"] = ["aime24"]
    facts = ("domains.math.benchmarks[0]", "'aime24'", "cannot be loaded", "offline", "`path`")
    say_each(problems_of(run, config), facts)
