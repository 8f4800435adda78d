"""From the merge's config to verl's: every value that decides something arrives, and nothing else moves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import schema
from merging.exopd.job import LOSS_NAME, logical_gpus, merge_job
from tests.helpers.merge_jobs import TEACHERS, config_with, scorer_models
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT, STUDENT
from tests.helpers.verl_configs import difference
from trainer.overrides import verl_config

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
LOSS = "distillation.distillation_loss"


@pytest.fixture(scope="module")
def cuda(compiled):
    return compiled(config_with("hardware.device", "cuda"))


def teacher_keys(name: str, value: Any, teachers=("teacher_0", "teacher_1")) -> dict[str, Any]:
    return {f"distillation.teacher_models.{teacher}.inference.{name}": value for teacher in teachers}


ADAPTER = {
    "actor_rollout_ref.model.lora_rank": 4,
    "actor_rollout_ref.model.lora_alpha": 8,
    "actor_rollout_ref.model.lora.merge": True,
    f"{ACTOR}.checkpoint.save_lora_only": True,
}

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("training.steps", 12, {"trainer.total_training_steps": 12, "trainer.total_epochs": 12}),
    (
        "training.prompts_per_step",
        32,
        {
            "data.train_batch_size": 32,
            f"{ACTOR}.ppo_mini_batch_size": 32,
            f"{ROLLOUT}.max_num_seqs": 64,
            f"{ROLLOUT}.engine_kwargs.vllm.num_gpu_blocks_override": 64 * 4 + 8,
        },
    ),
    (
        "training.samples_per_prompt",
        1,
        {
            f"{ROLLOUT}.n": 1,
            f"{ROLLOUT}.max_num_seqs": 64,
            f"{ROLLOUT}.engine_kwargs.vllm.num_gpu_blocks_override": 64 * 4 + 8,
        },
    ),
    ("training.learning_rate", 2e-5, {f"{ACTOR}.optim.lr": 2e-5}),
    ("training.warmup_steps", 7, {f"{ACTOR}.optim.lr_warmup_steps": 7}),
    ("training.schedule", "cosine", {f"{ACTOR}.optim.lr_scheduler_type": "cosine"}),
    (
        "training.max_prompt_tokens",
        73,
        {
            "data.max_prompt_length": 73,
            f"{ROLLOUT}.max_model_len": 73 + 48 + 1,
            **teacher_keys("prompt_length", 73),
            **teacher_keys("max_model_len", 122),
        },
    ),
    (
        "training.max_response_tokens",
        60,
        {
            "data.max_response_length": 60,
            f"{ROLLOUT}.max_model_len": 72 + 60 + 1,
            f"{ROLLOUT}.engine_kwargs.vllm.num_gpu_blocks_override": 128 * 5 + 8,
            **teacher_keys("response_length", 60),
            **teacher_keys("max_model_len", 133),
            **teacher_keys("engine_kwargs.vllm.num_gpu_blocks_override", 64 * 5 + 8),
        },
    ),
    ("training.weight_decay", 0.5, {f"{ACTOR}.optim.weight_decay": 0.5}),
    ("training.gradient_clip", 0.25, {f"{ACTOR}.grad_clip": 0.25, f"{ACTOR}.optim.clip_grad": 0.25}),
    ("training.loss_aggregation", "token-mean", {f"{ACTOR}.loss_agg_mode": "token-mean"}),
    ("training.save_every", 4, {"trainer.save_freq": 4}),
    ("training.lora_rank", 4, ADAPTER),
    (
        "training.seed",
        4,
        {
            "data.seed": 4,
            f"{ACTOR}.data_loader_seed": 4,
            f"{ACTOR}.fsdp_config.seed": 4,
            f"{ROLLOUT}.seed": 4,
        },
    ),
    (
        "objective.estimator",
        {"kind": "sampled", "importance_weight_cap": 3.0},
        {"algorithm.rollout_correction.rollout_is_threshold": 3.0},
    ),
    ("objective.largest_log_ratio", 30.0, {"protege.scorer.largest_log_ratio": 30.0}),
    ("scorer.tokens_per_batch", 128, {"protege.scorer.tokens_per_batch": 128}),
    ("scorer.canary", False, {"protege.scorer.canary": False}),
    ("scorer.replicas", 3, {"protege.scorer.replicas": 3}),
    ("chat_template", {"enable_thinking": False}, {"data.apply_chat_template_kwargs.enable_thinking": False}),
    ("hardware.gpus", 2, {"trainer.n_gpus_per_node": 2}),
    ("hardware.rollout_tensor_parallel", 2, {f"{ROLLOUT}.tensor_model_parallel_size": 2}),
    (
        "hardware.tokens_per_device",
        512,
        {f"{ACTOR}.ppo_max_token_len_per_gpu": 512, f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 512},
    ),
]


@pytest.mark.parametrize("path, value, expected", CHANGES, ids=[change[0] for change in CHANGES])
def test_a_changed_value_changes_exactly_its_keys(compiled, cpu, path, value, expected):
    found = difference(cpu, compiled(config_with(path, value)))
    found.pop("data.apply_chat_template_kwargs", None)  # the empty mapping that goes
    assert found == expected


NOT_HERE = {
    # preflight; test_overlap_job.py; test_adapter_student.py; in tests/unit/merging/training test_start.py
    # and test_validation.py
    "training": {
        *("too_long", "overlap", "start", "lora_alpha", "full_model"),
        *("validate_every", "validation_samples", "validation_limit", "keep", "patience"),
    },
    # lambda, clip and gate are columns of the rows; reference has one value; the launcher checks the rest
    "objective": {
        "reward_scale",
        "reward_scale_warmup_steps",
        "reference",
        "largest_start_difference",
        "alarms",
        "verifiable",
        "clip_log_ratio",
    },
    "scorer": {"kind", "pool"},  # below, test_pool.py
    "hardware": {
        *("device", "nodes", "ray_address", "scorer_gpus", "rollout_memory_fraction"),  # below, Ray
        "rollout_gpus",  # test_overlap_job.py
        # tests/unit/trainer/test_overrides.py
        *("sequence_parallel", "rollout_sequences", "rollout_quantization", "offload", "checkpoints"),
        *("device_kind", "price_per_device_hour"),  # the plan's
        *("stall", "probe_cache_gib"),  # the launcher's, the probe's
    },
}


@pytest.mark.parametrize("section", NOT_HERE)
def test_every_field_is_accounted_for(section):
    models = {"training": schema.Training, "objective": schema.Objective, "scorer": schema.Scorer}
    fields = models.get(section, schema.Hardware).model_fields.keys()
    tested = {path.partition(".")[2] for path, _, _ in CHANGES if path.startswith(section + ".")}
    assert tested | NOT_HERE[section] == fields


def test_devices_of_a_gpu_machine(compiled, cuda):
    fraction = difference(
        cuda, compiled(config_with("hardware.device", "cuda", "hardware.rollout_memory_fraction", 0.3))
    )
    own = {f"{ROLLOUT}.gpu_memory_utilization": 0.3}
    assert fraction == {**own, **teacher_keys("gpu_memory_utilization", 0.3)}
    several = ("hardware.device", "cuda", "hardware.nodes", 2, "hardware.ray_address", "head:6379")
    assert difference(cuda, compiled(config_with(*several))) == {
        "trainer.nnodes": 2, "protege.scorer.replicas": 2,
    }  # fmt: skip


def test_a_gpu_machine_keeps_verls_own_engine_settings(cpu, cuda):
    assert (cpu["trainer.device"], cuda["trainer.device"]) == ("cpu", "cuda")
    assert (cpu["protege.scorer.dtype"], cuda["protege.scorer.dtype"]) == ("float32", "bfloat16")
    assert (cpu["protege.scorer.device"], cuda["protege.scorer.device"]) == ("cpu", "cuda")
    assert cpu[f"{ROLLOUT}.enforce_eager"] is True and cpu[f"{ROLLOUT}.dtype"] == "float32"
    assert cuda[f"{ROLLOUT}.dtype"] == "bfloat16"
    assert cuda["actor_rollout_ref.model.enable_gradient_checkpointing"] is True
    assert not any("num_gpu_blocks_override" in key for key in cuda)


def test_what_the_objective_rests_on(cpu):
    expected = {
        "distillation.enabled": True,
        "distillation.teacher_key": "teacher",
        f"{LOSS}.loss_mode": "exopd",
        f"{LOSS}.use_policy_gradient": True,
        f"{LOSS}.use_task_rewards": False,
        f"{LOSS}.loss_max_clamp": None,
        f"{LOSS}.log_prob_min_clamp": None,
        "algorithm.rollout_correction.rollout_is": "token",
        "algorithm.rollout_correction.rollout_is_threshold": 5.0,
        "algorithm.use_kl_in_reward": False,
        f"{ACTOR}.use_kl_loss": False,
        f"{ACTOR}.entropy_coeff": 0,
        f"{ACTOR}.ppo_epochs": 1,
        f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
        f"{ROLLOUT}.temperature": 1.0,
        f"{ROLLOUT}.top_p": 1,
        f"{ROLLOUT}.top_k": -1,
        f"{ROLLOUT}.calculate_log_probs": True,
        f"{ROLLOUT}.agent.agent_loop_manager_class": "merging.exopd.agent_loop.ScoringAgentLoopManager",
        "data.shuffle": False,
        "data.train_files": ["/run/train.parquet"],
        "trainer.default_local_dir": "/run/train/checkpoints",
        "actor_rollout_ref.model.path": str(STUDENT),
    }
    assert {key: cpu[key] for key in expected} == expected


def test_the_loss_has_one_name_at_every_lambda(compiled, cpu):
    """lambda = 1 is no other loss: rows carry the scale, so domains may differ."""
    from merging.exopd import loss as verl_plugin

    assert LOSS_NAME == verl_plugin.LOSS_NAME == "exopd"
    plain = difference(cpu, compiled(config_with("objective.reward_scale", 1.0)))
    assert plain.keys() == {"protege.scorer.models.reference"}  # which is not read
    assert difference(cpu, compiled(config_with("domains.math.objective", {"reward_scale": 2.0}))) == {}


DISTRIBUTION = {
    f"{LOSS}.loss_mode": "exopd_distribution",
    f"{LOSS}.use_policy_gradient": False,
    "actor_rollout_ref.model.model_type": "exopd_language_model",
    "actor_rollout_ref.model.external_lib": "merging.exopd.engine",
    "algorithm.rollout_correction.bypass_mode": True,
    "algorithm.rollout_correction.rollout_is": None,
    "algorithm.rollout_correction.rollout_is_threshold": 2.0,
    f"{ACTOR}.calculate_entropy": True,  # of the update's own pass: there is no other
    "protege.scorer.distributions": True,
}


def test_an_estimator_of_whole_distributions_is_a_direct_loss_in_an_engine_of_its_own(compiled, cpu):
    assert (cpu["protege.scorer.distributions"], cpu["protege.scorer.top_k"]) == (False, None)
    assert difference(cpu, compiled(config_with("objective.estimator", "full"))) == DISTRIBUTION
    topk = compiled(config_with("objective.estimator", {"kind": "topk", "k": 7}))
    assert difference(cpu, topk) == DISTRIBUTION | {"protege.scorer.top_k": 7}


@pytest.mark.parametrize(
    "estimator, expected",
    [
        ("sampled", {"actor_rollout_ref.model.model_type": "language_model_without_old_entropy"}),
        ("full", {f"{ACTOR}.calculate_entropy": False}),
    ],
)
def test_entropy_is_left_out_where_it_is_not_wanted(compiled, estimator, expected):
    """`sampled` has it from the pass before the update, `full` from the update's own."""
    measured = compiled(config_with("objective.estimator", estimator))
    without = compiled(config_with("objective.estimator", estimator, "metrics.entropy", False))
    assert difference(measured, without) == expected


@pytest.mark.parametrize("kind", ["pool", "sharded"])
@pytest.mark.parametrize("estimator", ["full", "topk"])
def test_only_the_shared_scorer_gives_whole_distributions(kind, estimator):
    told = ("objective.estimator", estimator, "distributions", f"{kind} gives the sampled token only")
    with refuses(*told, error=ValueError):
        config_with("objective.estimator", {"kind": estimator}, "scorer.kind", kind)


# ------------------------------------------------------------------------------------------- scorers


def test_the_shared_scorer_holds_all_models_and_asks_for_no_server(cpu):
    models, _ = scorer_models(cpu)
    assert models == {"reference": str(STUDENT), **TEACHERS}
    assert cpu["protege.scorer.kind"] == "shared"
    assert cpu["trainer.v1.trainer_mode"] == "shared_scorer"
    assert (cpu["distillation.nnodes"], cpu["distillation.n_gpus_per_node"]) == (0, 0)
    entries = [cpu[f"distillation.teacher_models.teacher_{i}.{name}"] for i in (0, 1)
               for name in ("key", "model_path", "num_replicas")]  # fmt: skip
    assert entries == ["math", "/experts/math", 0, "code", "/experts/code", 0]
    job = merge_job(config_with(), "merge", TEACHERS, Path("t"), Path("f"))
    assert job.imports == ("merging.exopd.trainer",)
    assert logical_gpus(config_with()) == 1
    assert logical_gpus(config_with("hardware.gpus", 2)) == 2


def test_the_sharded_scorer_differs_from_the_shared_one_in_who_scores(compiled):
    shared, sharded = (config_with("hardware.gpus", 2, "scorer.kind", kind) for kind in ("shared", "sharded"))
    assert difference(compiled(shared), compiled(sharded)) == {
        "protege.scorer.kind": "sharded",
        "trainer.v1.trainer_mode": "sharded_scorer",
        "trainer.v1.sharded_scorer": {},
        f"{ROLLOUT}.agent.agent_loop_manager_class":
            "merging.exopd.sharded.agent_loop.UnscoredAgentLoopManager",
        "trainer.v1.shared_scorer": None,
    }  # fmt: skip
    job = merge_job(sharded, "merge", TEACHERS, Path("t"), Path("f"), {"math": "/adapter"})
    assert job.imports == ("merging.exopd.sharded.trainer",)
    assert (
        job.verl_overrides["protege.scorer"]["models"]["math"] == "/experts/math"
    )  # merged, not the adapter
    assert logical_gpus(sharded) == 2


@pytest.mark.parametrize("devices", [1, 2])
def test_the_pool_has_one_server_for_each_teacher_and_the_reference(compiled, devices):
    config = config_with("scorer.kind", "pool", "hardware.scorer_gpus", devices, "hardware.gpus", 2)
    found = compiled(config)
    entries = "distillation.teacher_models.teacher_"
    served = {found[f"{entries}{i}.key"]: found[f"{entries}{i}.model_path"] for i in range(3)}
    assert served == {**TEACHERS, "reference": str(STUDENT)}
    assert f"{entries}3.key" not in found
    for i in range(3):
        replicas = found[f"{entries}{i}.num_replicas"]
        assert replicas * found[f"{entries}{i}.inference.tensor_model_parallel_size"] == devices
    assert (found["distillation.nnodes"], found["distillation.n_gpus_per_node"]) == (1, 3 * devices)
    assert found["trainer.v1.trainer_mode"] == "sync"
    assert merge_job(config, "merge", TEACHERS, Path("t"), Path("f")).imports == ()
    assert logical_gpus(config) == 2 + 3 * devices


def test_the_students_folder_sizes_the_bucket_of_the_weight_update(cpu):
    """3.3 MB of weights: below the least bucket."""
    assert cpu[f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes"] == 16


def test_the_bucket_holds_a_bfloat16_models_float32_weights_and_its_tied_head(tmp_path):
    """4 Mi numbers of embedding and 2 Mi others, two bytes each in the file: 4 * (6 + 4) MiB are sent."""
    import torch
    from safetensors.torch import save_file

    from trainer.overrides import bucket_megabytes

    tensors = {"embed": torch.zeros(4, 2**20), "layer": torch.zeros(2 * 2**20)}
    save_file({name: t.bfloat16() for name, t in tensors.items()}, tmp_path / "model.safetensors")
    assert bucket_megabytes(str(tmp_path)) == 41


def test_an_unknown_key_is_added_and_not_lost(compiled):
    """`protege.*` is ours; verl's strict schema does not know it."""
    job = merge_job(config_with(), "merge", TEACHERS, Path("t"), Path("f"))
    assert verl_config(job, "m").protege.scorer.tokens_per_batch == 16384


# -------------------------------------------------------------------------------- verl's own checks

VERL_ACCEPTS = """
import importlib, sys
from pathlib import Path
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.plugin.platform import PlatformRegistry
from merging.exopd.job import TRAINER_MODES, merge_job
from tests.helpers.merge_jobs import TEACHERS, config_with
from trainer.overrides import verl_config

assert "cpu" in PlatformRegistry.registered_names()
full = config_with("objective.estimator", "full")
distillation = omega_conf_to_dataclass(
    verl_config(merge_job(full, "merge", TEACHERS, Path("t.parquet"), Path("f")), "m").distillation
)
assert distillation.distillation_loss.loss_mode == "exopd_distribution"
for kind in ("shared", "pool", "sharded"):
    config = config_with("scorer.kind", kind, "training.loss_aggregation", "seq-mean-token-sum")
    whole = verl_config(merge_job(config, "merge", TEACHERS, Path("t.parquet"), Path("f")), "m")
    assert not need_reference_policy(whole) and not need_critic(whole)
    validate_config(config=whole, use_reference_policy=False, use_critic=False)
    distillation = omega_conf_to_dataclass(whole.distillation)
    expected = {"math", "code"} | ({"reference"} if kind == "pool" else set())
    assert set(distillation.teacher_models) == expected, distillation.teacher_models
    loss = distillation.distillation_loss
    assert loss.loss_mode == "exopd" and loss.use_policy_gradient and not loss.loss_settings.use_topk
    actor = omega_conf_to_dataclass(whole.actor_rollout_ref.actor)
    assert actor.ppo_mini_batch_size == 64 and actor.loss_agg_mode == "seq-mean-token-sum"
    assert actor.optim.clip_grad == 1.0 and actor.fsdp_config.model_dtype == "float32"
    rollout = omega_conf_to_dataclass(whole.actor_rollout_ref.rollout)
    assert rollout.n == 2 and rollout.max_model_len == 121 and rollout.enforce_eager
for mode, (module,) in TRAINER_MODES.values():
    trainer = vars(importlib.import_module(module))
    assert get_trainer_cls(mode) in trainer.values(), mode
print("accepted")
"""


def test_verl_accepts_it():
    ended = subprocess.run(
        [sys.executable, "-c", VERL_ACCEPTS],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.splitlines()[-1] == "accepted"
