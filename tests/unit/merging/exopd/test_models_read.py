"""Models that no step of a training reads are neither loaded, served nor given devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging.exopd.job import logical_gpus, merge_job
from merging.exopd.lambda_schedule import LambdaSchedule
from tests.helpers.merge_jobs import TEACHERS, config_with, scorer_models
from tests.helpers.paths import STUDENT

WARM = {"reward_scale": 0.0, "reward_scale_warmup_steps": 3}


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        (("objective.reward_scale", 1.0), {"math", "code"}),
        (("objective.reward_scale", 0.0), {"reference"}),
        (
            ("objective.reward_scale", 0.0, "domains.code.objective", {"reward_scale": 1.0}),
            {"reference", "code"},
        ),
        (("objective", WARM), {"math", "code", "reference"}),  # lambda 1 in the first step
    ],
)
@pytest.mark.parametrize("kind", ["shared", "pool"])
def test_models_that_no_step_reads_are_neither_loaded_nor_served(compiled, changes, read, kind):
    config = config_with("scorer.kind", kind, *changes)
    found = compiled(config)
    assert scorer_models(found)[0].keys() == read
    assert scorer_models(found)[1] == {"math": "reference", "code": "reference"}
    if kind == "pool":
        entries = [found.get(f"distillation.teacher_models.teacher_{i}.key") for i in range(3)]
        assert set(entries) - {None} == read
        assert found["distillation.n_gpus_per_node"] == len(read)
        assert logical_gpus(config) == 1 + len(read)


def test_the_pool_has_devices_for_the_training_that_reads_most():
    beside = config_with("scorer.kind", "pool", "objective.reward_scale", 1.0, "baselines", ["interpolation"])
    assert logical_gpus(beside) == 1 + 3


def test_a_training_at_another_lambda_loads_what_that_one_reads():
    for scale, read in ((1.0, {"math", "code"}), (0.5, {"math", "code", "reference"})):
        schedule = LambdaSchedule.of(config_with(), scale)
        job = merge_job(config_with(), "opd", TEACHERS, Path("t"), Path("f"), None, schedule)
        assert job.verl_overrides["protege.scorer"]["models"].keys() == read


def test_adapters_keep_their_base_where_nothing_else_reads_the_student():
    config = config_with("objective.reward_scale", 1.0)
    job = merge_job(config, "merge", TEACHERS, Path("t"), Path("f"), {"math": "/adapter"})
    scorer = job.verl_overrides["protege.scorer"]
    assert scorer["models"] == {"math": "/adapter", "code": "/experts/code"}
    assert scorer["base"] == str(STUDENT)
