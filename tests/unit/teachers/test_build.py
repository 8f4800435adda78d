"""Experts: what changes their identity, and a build from its order to its stored record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import teachers.build as build_module
from common.errors import RunFailed
from configs.schema import Hardware
from teachers.build import build_expert, find_expert, learning_curve
from teachers.models.fingerprint import fingerprint
from teachers.registry.local import Registry, expert_id
from tests.helpers.expert_orders import order
from tests.helpers.messages import refuses
from tests.helpers.model_copies import weights_of
from tests.helpers.paths import STUDENT
from tests.helpers.stand_in_trainers import ExpertTrainer
from tests.helpers.tiny_model import write_model
from trainer.job import TrainingJob


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "student")


def id_of(student, recipe=None, **changes):
    return expert_id(order(student, recipe, **changes).identity())


# ----------------------------------------------------------------------------------------- identity

BETAS = "actor_rollout_ref.actor.optim.betas"
RECIPE_CHANGES = [
    {"steps": 5},
    {"prompts_per_step": 3},
    {"samples_per_prompt": 3},
    {"learning_rate": 2e-4},
    {"warmup_steps": 1},
    {"max_response_tokens": 21},
    {"seed": 1},
    {"lora_rank": 2},
    {"lora_alpha": 3, "lora_rank": 2},
    {"verl": {BETAS: [0.9, 0.95]}},
]
OTHER_CHANGES = [
    {"reward": "math"},
    {"prompts": [("1+1", "2"), ("1+3", "3")]},
    {"prompts": [("1+1", "2"), ("1+2", "4")]},
    {"prompts": [("1+1", "2")]},
    {"prompts": [("1+2", "3"), ("1+1", "2")]},
    {"chat_template": {"enable_thinking": False}},
    {"training": {"max_prompt_tokens": 17}},
    {"verl": {BETAS: [0.9, 0.96]}},
    {"hardware": {"device": "cuda", "rollout_quantization": "fp8"}},
]


@pytest.mark.parametrize("change", RECIPE_CHANGES, ids=lambda change: next(iter(change)))
def test_every_part_of_the_recipe_changes_the_id(student, change):
    assert id_of(student, change) != id_of(student)


def test_no_part_of_the_recipe_is_forgotten():
    from configs.blocks.experts import RLExpert

    changed = {next(iter(change)) for change in RECIPE_CHANGES}
    assert changed == RLExpert.model_fields.keys() - {"kind", "save_every", "base"}


@pytest.mark.parametrize("change", OTHER_CHANGES, ids=str)
def test_reward_prompts_template_and_lengths_change_the_id(student, change):
    assert id_of(student, **change) != id_of(student)


def test_every_id_is_another_one(student):
    ids = [id_of(student, change) for change in RECIPE_CHANGES]
    ids += [id_of(student, **change) for change in OTHER_CHANGES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "change", [{"value": 0.25}, {"template": "{{ messages }}"}, {"extra_tokens": ("<x>",)}]
)
def test_another_base_changes_the_id(student, tmp_path, change):
    assert id_of(write_model(tmp_path / "other", **change)) != id_of(student)


def test_a_base_of_its_own_is_the_base_that_counts(student, tmp_path):
    other = write_model(tmp_path / "other", hidden=8)
    ours = id_of(student, {"base": str(other)})
    assert ours != id_of(student)
    assert ours == id_of(other)  # the same reinforcement learning, whoever is the student
    assert id_of(student, {"base": str(write_model(tmp_path / "copy"))}) == id_of(student)


def test_ids_are_those_of_before_experts_had_bases():
    """Experts that lie in registries are found again."""
    assert id_of(STUDENT) == "d5eef85b1a2dff9e"
    recipe = order(STUDENT).identity()["recipe"].keys()
    assert recipe == {
        "kind", "steps", "prompts_per_step", "samples_per_prompt", "learning_rate", "warmup_steps", "seed",
    }  # fmt: skip


def test_what_leaves_the_weights_alone_leaves_the_id_alone(student, tmp_path):
    ours = id_of(student)
    assert id_of(student, {"save_every": 1}) == ours
    assert id_of(write_model(tmp_path / "copy")) == ours  # the same base elsewhere
    later = {"steps": 9, "learning_rate": 1.0, "prompts_per_step": 8, "save_every": 1, "weight_decay": 0.5}
    assert id_of(student, training=later) == ours  # how the merge trains


def test_settings_of_verls_count_wherever_they_stand_and_however_they_are_spelt(student):
    nested = {"actor_rollout_ref.actor": {"optim": {"betas": [0.9, 0.95]}}}
    ours = id_of(student, verl={BETAS: [0.9, 0.95]})
    assert ours == id_of(student, {"verl": nested}) != id_of(student)
    # the expert's own lie over those of all trainings
    assert id_of(student, {"verl": nested}, verl={BETAS: [0.1, 0.2]}) == ours


def test_settings_that_compute_nothing_and_devices_leave_the_id_alone(student):
    ours = id_of(student)
    reshard = "actor_rollout_ref.actor.fsdp_config.reshard_after_forward"
    assert id_of(student, {"verl": {reshard: False}}, verl={"global_profiler.steps": [1]}) == ours
    eight = {"device": "cuda", "gpus": 8, "offload": "all", "sequence_parallel": 2, "checkpoints": "weights"}
    assert id_of(student, hardware=eight) == ours


def test_the_length_limit_is_the_recipes_or_that_of_training(student):
    assert order(student).response_tokens == 20
    inherited = order(student, {"max_response_tokens": None})
    assert inherited.response_tokens == 24
    assert id_of(student, {"max_response_tokens": None}) == id_of(student, {"max_response_tokens": 24})
    longer = {"max_response_tokens": 25}
    assert id_of(student, training=longer) == id_of(student)
    assert id_of(student, {"max_response_tokens": None}, training=longer) != expert_id(inherited.identity())


def test_experts_without_an_adapter_keep_the_ids_of_before_there_were_adapters(student):
    assert not {"lora_rank", "lora_alpha"} & order(student).identity()["recipe"].keys()
    assert id_of(student, {"lora_rank": 2}) == id_of(student, {"lora_rank": 2, "lora_alpha": 4})


# -------------------------------------------------------------------------------------------- build


@pytest.fixture
def trainer(monkeypatch):
    trainer = ExpertTrainer()
    monkeypatch.setattr(build_module, "train", trainer)
    return trainer


def forbidden_cluster():
    raise AssertionError("nothing is trained, so no cluster is started")


def test_a_build_is_stored_whole_and_found_again(tmp_path, trainer):
    registry, wanted = Registry(tmp_path / "home"), order(STUDENT, {"steps": 20})
    assert find_expert(registry, wanted) is None
    record = build_expert(registry, wanted, lambda: None, lambda step, metrics: None)
    assert find_expert(registry, wanted) == record == registry.verify(record.id)
    assert record.id == expert_id(wanted.identity())
    assert (record.domain, record.prompts, record.attempts) == ("math", 2, 2)
    assert record.final_reward == pytest.approx(1.85)  # the last tenth: rewards 1.8 and 1.9
    assert record.weights_sha256 == fingerprint(record.model_path).weights_sha256
    base, built = weights_of(STUDENT), weights_of(Path(record.model_path))
    assert all((built[name] == value + 1).all() for name, value in base.items())
    assert registry.curve(record)[2] == {"step": 3, "reward": 0.2, "entropy": 0.5}
    assert len(registry.curve(record)) == 20
    assert not (registry.root / "building" / record.id).exists()
    build_expert(registry, wanted, forbidden_cluster, lambda step, metrics: None)
    assert len(trainer.jobs) == 1


def test_the_job_is_the_order(tmp_path, trainer, monkeypatch):
    import pyarrow.parquet

    registry = Registry(tmp_path / "home")
    wanted = order(STUDENT, {"warmup_steps": 3, "seed": 9}, chat_template={"enable_thinking": False})
    rows = []

    def read_rows(job, cluster, on_step):
        rows.extend(pyarrow.parquet.read_table(job.train_file).to_pylist())
        trainer(job, cluster, on_step)

    monkeypatch.setattr(build_module, "train", read_rows)
    record = build_expert(registry, wanted, lambda: None, lambda step, metrics: None)
    (job,) = trainer.jobs
    assert (job.steps, job.prompts_per_step, job.samples_per_prompt) == (4, 2, 2)
    assert (job.learning_rate, job.warmup_steps, job.save_every, job.seed) == (1e-4, 3, 2, 9)
    assert (job.max_prompt_tokens, job.max_response_tokens) == (16, 20)
    assert job.model_path == str(STUDENT) and job.chat_template == {"enable_thinking": False}
    assert job.folder == registry.root / "building" / record.id
    assert len(rows) == 4 * 2
    assert {row["extra_info"]["reward"] for row in rows} == {"exact"}
    assert sorted(row["prompt"][0]["content"] for row in rows) == ["1+1"] * 4 + ["1+2"] * 4


def test_an_experts_job_is_this_and_nothing_else(tmp_path):
    """What it shares with the baseline `grpo` adds nothing to it: written out whole, its rows as a digest."""
    import hashlib

    import pyarrow.parquet

    job = build_module.expert_job(order(STUDENT), tmp_path)
    assert job == TrainingJob(
        name="expert-math",
        model_path=str(STUDENT),
        train_file=tmp_path / "prompts.parquet",
        folder=tmp_path,
        steps=4,
        prompts_per_step=2,
        samples_per_prompt=2,
        learning_rate=1e-4,
        max_prompt_tokens=16,
        max_response_tokens=20,
        save_every=2,
        seed=0,
        hardware=Hardware(device="cpu"),
        reward_function=("teachers.rewards", "compute_score"),
        lora=None,
        warmup_steps=0,
        schedule="constant",
        weight_decay=0.01,
        gradient_clip=1.0,
        loss_aggregation="token-mean",
        agent_loop_manager="trainer.within.agent_loop.LoudAgentLoopManager",
        chat_template={},
        imports=(),
        verl_overrides={},
    )
    rows = json.dumps(pyarrow.parquet.read_table(job.train_file).to_pylist(), sort_keys=True)
    assert hashlib.sha256(rows.encode()).hexdigest()[:16] == "9928169c85983e24"


def test_an_expert_with_a_base_is_trained_from_it_and_exported_like_it(tmp_path, trainer):
    registry, student = Registry(tmp_path / "home"), write_model(tmp_path / "student")
    record = build_expert(
        registry, order(student, {"base": str(STUDENT)}), lambda: None, lambda step, metrics: None
    )
    assert [job.model_path for job in trainer.jobs] == [str(STUDENT)]
    assert fingerprint(record.model_path).shapes_sha256 == fingerprint(STUDENT).shapes_sha256
    assert record.identity["base_weights"] == fingerprint(STUDENT).weights_sha256


def test_an_adapter_is_stored_as_an_adapter(tmp_path, trainer, monkeypatch):
    from teachers.models.adapters import check_adapter, is_adapter
    from teachers.models.adapters import fingerprint as adapter_fingerprint
    from tests.helpers.verl_checkpoints import lora_weights, write_checkpoint

    def trains_an_adapter(job, cluster, on_step):
        trainer(job, cluster, on_step)
        shutil.rmtree(job.checkpoints)
        write_checkpoint(job.checkpoints, job.steps, [lora_weights(2)])

    monkeypatch.setattr(build_module, "train", trains_an_adapter)
    registry, wanted = Registry(tmp_path / "home"), order(STUDENT, {"lora_rank": 2, "lora_alpha": 6})
    record = build_expert(registry, wanted, lambda: None, lambda step, metrics: None)
    assert (trainer.jobs[0].lora.rank, trainer.jobs[0].lora.alpha) == (2, 6)
    assert is_adapter(record.model_path)
    found = adapter_fingerprint(record.model_path)
    check_adapter(fingerprint(STUDENT), found, "math")
    assert (found.settings["r"], found.settings["lora_alpha"]) == (2, 6)
    assert found.parameters == sum(value.numel() for value in lora_weights(2).values())
    assert registry.verify(record.id).weights_sha256 == record.weights_sha256 == found.weights_sha256
    weights = Path(record.model_path) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with refuses("weights", "digest"):
        registry.verify(record.id)


def test_a_failed_build_is_not_visible_and_keeps_its_checkpoints(tmp_path, monkeypatch):
    registry, wanted = Registry(tmp_path / "home"), order(STUDENT)

    def fails(job, cluster, on_step):
        job.checkpoints.mkdir(parents=True)
        raise RunFailed("an engine died")

    monkeypatch.setattr(build_module, "train", fails)
    with pytest.raises(RunFailed):
        build_expert(registry, wanted, lambda: None, lambda step, metrics: None)
    assert registry.list() == [] and find_expert(registry, wanted) is None
    assert (registry.root / "building" / expert_id(wanted.identity()) / "checkpoints").is_dir()


def test_an_expert_that_another_process_built_meanwhile_is_taken(tmp_path, trainer):
    registry, wanted = Registry(tmp_path / "home"), order(STUDENT)
    record = build_expert(registry, wanted, lambda: None, lambda step, metrics: None)
    assert build_expert(registry, wanted, forbidden_cluster, lambda step, metrics: None) == record


# ----------------------------------------------------------------------------------- learning curve


def test_learning_curve_takes_what_there_is(tmp_path):
    rows = [
        {"step": 2, "critic/score/mean": 0.5, "response_length/mean": 7.5, "actor/grad_norm": 1.25},
        {"step": 1, "critic/score/mean": 0.25, "timing_s/step": 3.0, "actor/entropy": 0.1},
        {"step": 2, "critic/score/mean": 0.75, "actor/entropy": float("nan")},  # not measured
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert learning_curve(tmp_path) == [
        {"step": 1, "reward": 0.25, "step_seconds": 3.0, "entropy": 0.1},
        {"step": 2, "reward": 0.75},
    ]


def test_no_metrics_give_an_empty_curve(tmp_path):
    assert learning_curve(tmp_path) == []
