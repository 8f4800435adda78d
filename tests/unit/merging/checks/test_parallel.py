"""What devices cannot share, and checkpoints that nothing could go on from, is refused before a start."""

from __future__ import annotations

import json

import pytest

from common.errors import ConfigError
from configs.load import load_config
from merging.checks import parallel
from merging.checks.found import Preflight
from merging.checks.parallel import attention_heads, token_budget
from merging.checks.preflight import preflight
from teachers.models.fingerprint import fingerprint
from tests.helpers.messages import says
from tests.helpers.tiny_model import config_dict, write_config
from tests.helpers.tiny_model import parameters as parameters_of


@pytest.fixture
def given(tmp_path):
    return config_dict(tmp_path)


def problems_of(tmp_path, given, *overrides) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        preflight(load_config(write_config(tmp_path, given), overrides), tmp_path / "run")
    return caught.value.problems


def test_sequence_parallel_divides_the_devices(tmp_path, given):
    overrides = ("hardware.gpus=4", "hardware.sequence_parallel=3")
    assert "hardware.sequence_parallel = 3 must divide the 4 devices (hardware.gpus * hardware.nodes)" in (
        problems_of(tmp_path, given, *overrides)
    )


def test_the_heads_of_every_trained_model_divide(tmp_path, given):
    """The tiny student has one head."""
    given["domains"]["math"]["expert"] = {
        "kind": "rl", "base": "./math_expert", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2,
    }  # fmt: skip
    found = problems_of(tmp_path, given, "hardware.gpus=2", "hardware.sequence_parallel=2")
    what = "hardware.sequence_parallel = 2: must divide the 1 attention heads"
    assert f"{what} (student: {tmp_path}/student)" in found
    assert f"{what} (domains.math.expert.base: {tmp_path}/math_expert)" in found


@pytest.mark.parametrize("gpus", [1, 2, 3])
def test_an_engine_of_several_processes_on_a_cpu_is_told_once(tmp_path, given, gpus):
    overrides = (
        f"hardware.gpus={gpus}",
        "training.prompts_per_step=12",
        "hardware.rollout_tensor_parallel=2",
    )
    (problem,) = problems_of(tmp_path, given, *overrides)
    says(problem, "hardware.rollout_tensor_parallel = 2", "CPU", "1")


LONGEST = 16 + 16
"""max_prompt_tokens + max_response_tokens of the tiny config."""


def test_a_micro_batch_holds_the_longest_sequence(tmp_path, given):
    config = write_config(tmp_path, given)
    preflight(load_config(config, [f"hardware.tokens_per_device={LONGEST}"]), tmp_path / "run")
    (problem,) = problems_of(tmp_path, given, f"hardware.tokens_per_device={LONGEST - 1}")
    says(problem, "hardware.tokens_per_device = 31", "training", "32 tokens", "at least 32")


def test_devices_that_share_a_sequence_share_its_tokens(tmp_path, given):
    def refused(tokens: int) -> bool:
        config = load_config(
            write_config(tmp_path, given),
            ["hardware.gpus=2", "hardware.sequence_parallel=2", f"hardware.tokens_per_device={tokens}"],
        ).config
        try:
            token_budget(Preflight(config=config, run_dir=tmp_path))
        except ConfigError as error:
            says(str(error), "sequence_parallel 2", "at least 16")
            return True
        return False

    assert refused(15) and not refused(16)


def test_an_expert_that_answers_longer_is_named(tmp_path, given):
    given["domains"]["code"]["expert"] = {
        "kind": "rl", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2, "max_response_tokens": 20,
    }  # fmt: skip
    given["domains"]["code"]["prompts"]["columns"] = {"answer": None}
    found = problems_of(tmp_path, given, "hardware.tokens_per_device=35")
    (problem,) = [problem for problem in found if "tokens_per_device" in problem]
    says(problem, "domains.code.expert", "36 tokens", "max_response_tokens 20", "at least 36")


@pytest.mark.parametrize(
    ("heads", "key_heads", "devices", "expected"),
    [
        (32, 8, 8, None),
        (32, 8, 16, None),  # each key head on two devices
        (32, 8, 5, "must divide the 32 attention heads"),
        (24, 6, 4, "must divide the 6 key and value heads, or be a multiple of them"),
        (32, None, 4, None),
    ],
)
def test_heads_by_hand(tmp_path, given, heads, key_heads, devices, expected):
    config = load_config(
        write_config(tmp_path, given),
        ["hardware.device=cuda", f"hardware.rollout_tensor_parallel={devices}"],
    ).config
    file = tmp_path / "student" / "config.json"
    counts = {"num_attention_heads": heads, "num_key_value_heads": key_heads}
    file.write_text(json.dumps(json.loads(file.read_text()) | counts))
    student = fingerprint(tmp_path / "student")
    found = Preflight(config=config, run_dir=tmp_path, fingerprints={"student": student})
    if expected is None:
        attention_heads(found)
        return
    with pytest.raises(ConfigError) as caught:
        attention_heads(found)
    place = f"(student: {tmp_path}/student)"
    assert caught.value.problems == (f"hardware.rollout_tensor_parallel = {devices}: {expected} {place}",)


def test_an_alarm_cannot_go_on_from_weights_alone(tmp_path, given):
    (problem,) = problems_of(
        tmp_path, given, "hardware.checkpoints=weights", "objective.alarms.action=back_off"
    )
    assert problem.startswith("hardware.checkpoints: weights keeps no optimizer")


def test_weights_alone_take_a_sixth_of_the_disk(tmp_path, given):
    """One checkpoint of 4 bytes a parameter in place of two of 12."""
    parameters = parameters_of(99)
    found = {
        kind: preflight(
            load_config(write_config(tmp_path, given), [f"hardware.checkpoints={kind}"]), tmp_path / "run"
        ).disk_bytes
        for kind in ("full", "weights")
    }
    assert found["full"] - found["weights"] == parameters * (24 - 4)


POOL = ("scorer.kind=pool", "hardware.device=cuda", "hardware.ray_address=head:6379")


def test_the_heads_of_every_model_of_the_pool_divide(tmp_path, given):
    """The tiny student has one head, as have its copies."""
    found = problems_of(tmp_path, given, *POOL, "scorer.pool.models={math: {tensor_parallel: 2}}")
    what = "scorer.pool: tensor_parallel = 2 of math: must divide the 1 attention heads"
    assert [problem for problem in found if what in problem] == [f"{what} ({tmp_path}/math_expert)"]
    found = problems_of(tmp_path, given, *POOL, "hardware.scorer_gpus=2")
    names = [problem.partition(":")[2] for problem in found if "scorer.pool" in problem]
    assert len(names) == 1 + len(given["domains"]) and any("of reference" in name for name in names)


def test_a_server_on_a_cpu_is_one_process(tmp_path, given):
    found = problems_of(tmp_path, given, "scorer.kind=pool", "scorer.pool.default.tensor_parallel=2")
    assert any("tensor_parallel = 2 of reference: an engine on a CPU is one process" in p for p in found)


AHEAD = "training.overlap=one_step"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["hardware.rollout_gpus=1"], "devices that only sample are for training.overlap: one_step"),
        ([AHEAD, "hardware.device=cuda"], "set hardware.rollout_gpus (and lower hardware.gpus by as many)"),
        (
            [AHEAD, "hardware.rollout_gpus=1", "hardware.ray_address=10.0.0.1:6379"],
            "hardware.rollout_gpus is for one machine",
        ),
        (
            [AHEAD, "hardware.rollout_gpus=3", "hardware.rollout_tensor_parallel=2", "hardware.gpus=2"],
            "hardware.rollout_tensor_parallel = 2 must divide hardware.rollout_gpus = 3",
        ),
        (
            [AHEAD, "hardware.rollout_gpus=1", "hardware.device=cuda", "hardware.gpus=1"],
            "hardware.gpus + hardware.rollout_gpus = 2, and this machine shows 1",
        ),
        (
            [AHEAD, "verl={actor_rollout_ref.rollout.free_cache_engine: true}"],
            "verl: actor_rollout_ref.rollout.free_cache_engine is set by training.overlap: one_step",
        ),
    ],
)
def test_what_cannot_be_one_step_ahead(tmp_path, given, monkeypatch, overrides, expected):
    monkeypatch.setattr(parallel, "visible_gpus", lambda: 1)
    config = load_config(write_config(tmp_path, given), overrides).config
    with pytest.raises(ConfigError) as caught:
        parallel.overlap(Preflight(config=config, run_dir=tmp_path))
    (problem,) = caught.value.problems
    assert expected in problem


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [AHEAD],
        [AHEAD, "hardware.rollout_gpus=1"],
        [
            AHEAD,
            "objective.alarms.action=back_off",
        ],  # rows that were ahead are read again, at their new lambda
        [AHEAD, "objective.estimator=topk"],  # an expectation over the next token needs no weight
        [AHEAD, "hardware.device=cuda", "hardware.gpus=6", "hardware.rollout_gpus=2"],
        ["verl={actor_rollout_ref.rollout.free_cache_engine: true}"],
    ],
)
def test_what_can(tmp_path, given, monkeypatch, overrides):
    monkeypatch.setattr(parallel, "visible_gpus", lambda: 8)
    config = load_config(write_config(tmp_path, given), overrides).config
    parallel.overlap(Preflight(config=config, run_dir=tmp_path))
