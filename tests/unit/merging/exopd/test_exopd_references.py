"""Which model is the reference of which domain, as the scorer is told."""

from __future__ import annotations

from configs import schema
from merging.exopd.job import logical_gpus
from tests.helpers.merge_jobs import EXPERT, TEACHERS, config_with, scorer_models
from tests.helpers.messages import refuses
from tests.helpers.paths import STUDENT


def test_one_model_is_the_reference_of_all_domains(compiled, cpu):
    assert scorer_models(cpu)[1] == {"math": "reference", "code": "reference"}
    other = compiled(config_with("objective.reference", {"kind": "model", "path": "/models/other"}))
    models, references = scorer_models(other)
    assert models == {"reference:1": "/models/other", **TEACHERS}
    assert references == {"math": "reference:1", "code": "reference:1"}


def test_each_teachers_own_base_is_its_domains_reference(compiled):
    rl = {"kind": "rl", "steps": 2}
    given = {"kind": "model", "path": "/experts/x", "base": "/models/base"}
    config = config_with(
        "objective.reference", "teacher_base", "domains.math.expert", rl, "domains.code.expert", given
    )
    models, references = scorer_models(compiled(config))
    assert models == {"reference": str(STUDENT), "reference:1": "/models/base", **TEACHERS}
    assert references == {"math": "reference", "code": "reference:1"}
    pool = config.model_copy(update={"scorer": schema.Scorer(kind="pool")})
    assert logical_gpus(pool) == 1 + 4  # trainer, two teachers, two references


def test_the_base_of_an_expert_that_is_built_here_is_its_reference(compiled):
    large = {"kind": "rl", "steps": 2, "base": "/models/large"}
    experts = ("domains.math.expert", large, "domains.code.expert", {"kind": "rl"})
    job = compiled(config_with("objective.reference", "teacher_base", *experts))
    models, references = scorer_models(job)
    assert models == {"reference:1": "/models/large", "reference": str(STUDENT), **TEACHERS}
    assert references == {"math": "reference:1", "code": "reference"}
    models, references = scorer_models(compiled(config_with(*experts)))  # strong to weak, ordinary reference
    assert models == {"reference": str(STUDENT), **TEACHERS}
    assert references == {"math": "reference", "code": "reference"}


def test_a_base_is_given_exactly_where_it_is_read():
    with refuses("teacher_base", "domains.math.expert.base", error=ValueError):
        config_with("objective.reference", "teacher_base")
    with refuses("domains.math.expert.base", "teacher_base", error=ValueError):
        config_with("domains.math.expert", {**EXPERT, "base": "/models/base"})
