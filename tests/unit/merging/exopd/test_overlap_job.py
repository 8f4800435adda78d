"""What verl is told for a merge whose rollouts are one step ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging.exopd.job import logical_gpus, merge_job
from tests.helpers.merge_jobs import TEACHERS, config_with
from tests.helpers.verl_configs import difference

ROLLOUT = "actor_rollout_ref.rollout"
AHEAD = ("training.overlap", "one_step")
SEPARATE = (*AHEAD, "hardware.rollout_gpus", 2)
STANDALONE = {f"{ROLLOUT}.nnodes": 1, f"{ROLLOUT}.n_gpus_per_node": 2}


def test_on_shared_devices_only_the_trainer_is_another(compiled, cpu):
    assert difference(cpu, compiled(config_with(*AHEAD))) == {
        "trainer.v1.trainer_mode": "shared_scorer_one_step",
        "trainer.v1.shared_scorer_one_step": {},
        "trainer.v1.shared_scorer": None,
    }


def test_devices_that_only_sample(compiled, cpu):
    assert difference(cpu, compiled(config_with(*SEPARATE))) == STANDALONE | {
        "trainer.v1.trainer_mode": "shared_scorer_one_step_separate",
        "trainer.v1.shared_scorer_one_step_separate": {},
        "trainer.v1.shared_scorer": None,
        f"{ROLLOUT}.checkpoint_engine.backend": "zmq",
        f"{ROLLOUT}.checkpoint_engine.custom_backend_module": "trainer.cpu.zmq_weights",
    }


def test_gpus_that_only_sample_stay_awake_and_get_weights_by_nccl(compiled):
    plain = compiled(config_with("hardware.device", "cuda"))
    found = difference(plain, compiled(config_with("hardware.device", "cuda", *SEPARATE)))
    assert {key: value for key, value in found.items() if not key.startswith("trainer.v1.")} == {
        **STANDALONE,
        f"{ROLLOUT}.checkpoint_engine.backend": "nccl",
        f"{ROLLOUT}.free_cache_engine": False,
        f"{ROLLOUT}.enable_sleep_mode": False,
    }


@pytest.mark.parametrize(
    ("settings", "modules"),
    [
        ((), ("merging.exopd.trainer",)),
        (("scorer.kind", "pool"), ()),
        (AHEAD, ("merging.exopd.overlap",)),
        (SEPARATE, ("merging.exopd.overlap",)),
        ((*AHEAD, "scorer.kind", "pool"), ("trainer.within.read_ahead",)),
    ],
)
def test_the_modules_that_register_the_trainer(settings, modules):
    """Each names a trainer that its modules put into verl's registry, or verl's own."""
    from importlib import import_module

    from verl.trainer.ppo.v1 import get_trainer_cls

    from trainer.overrides import verl_config

    job = merge_job(config_with(*settings), "merge", TEACHERS, Path("/run/t.parquet"), Path("/run/train"))
    assert job.imports == modules
    for module in modules:
        import_module(module)
    assert get_trainer_cls(verl_config(job, "metrics").trainer.v1.trainer_mode)


def test_a_cpu_machine_declares_the_devices_that_only_sample():
    assert logical_gpus(config_with(*SEPARATE, "hardware.gpus", 3)) == 5
