"""A config with an expert that is an adapter: from preflight to scorer, plan, probe, average and report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import ConfigError
from configs.load import load_config
from merging import run as run_module
from merging.checks.preflight import preflight
from merging.exopd.job import merge_job
from merging.planning.plan import make_plan
from merging.reports.reporting import provenance
from merging.training import probe as probe_module
from teachers.models import adapters, fingerprint
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.messages import refuses
from tests.helpers.opened_runs import adapter_beside_model, open_run
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import write_config


@pytest.fixture
def loaded(tmp_path):
    """load_config of two domains in tmp_path: math is an adapter, code a full model."""
    path = write_config(tmp_path, adapter_beside_model(tmp_path))
    return lambda *overrides: load_config(path, overrides)


def test_the_adapters_fingerprint_stands_with_the_models(loaded, tmp_path):
    config = loaded()
    expert = config.config.domains["math"].expert
    assert expert.path == str(tmp_path / "math_adapter")  # read from the config file's folder
    found = preflight(config, tmp_path / "run")
    own = adapters.fingerprint(tmp_path / "math_adapter")
    math, student = found.fingerprints["math"], found.fingerprints["student"]
    assert (math.weights_sha256, math.parameters) == (own.weights_sha256, own.parameters)
    assert (math.path, math.tokenizer_sha256) == (own.path, student.tokenizer_sha256)
    assert found.with_folders(config.config).domains["math"].expert.path == own.path
    assert not (tmp_path / "home").exists()  # nothing is merged before something starts


def test_problems_name_the_place_and_come_with_all_others(loaded, tmp_path):
    write_adapter(tmp_path / "dora", use_dora=True)
    with pytest.raises(ConfigError) as refused:
        preflight(
            loaded("domains.math.expert.path=dora", "domains.code.expert={kind: adapter, path: ./none}"),
            tmp_path / "run",
        )
    assert len(refused.value.problems) == 2
    for problem, part in zip(
        sorted(refused.value.problems), ("code.expert: ", f"math.expert ({tmp_path}/dora): "), strict=True
    ):
        assert problem.startswith(f"domains.{part}")


def test_a_full_model_that_is_an_adapter_is_sent_to_the_right_kind(loaded, tmp_path):
    with refuses("domains.math.expert", "adapter", "kind: adapter"):
        preflight(loaded("domains.math.expert={kind: model, path: math_adapter}"), tmp_path / "run")


def test_an_adapter_costs_its_own_memory_and_a_merged_model_on_the_disk(loaded, tmp_path):
    adapter = preflight(loaded(), tmp_path / "run")
    full = preflight(loaded("domains.math.expert={kind: model, path: code_expert}"), tmp_path / "run")
    student, own = (adapter.fingerprints[name].parameters for name in ("student", "math"))
    assert full.memory_bytes - adapter.memory_bytes == 4 * (student - own)
    assert adapter.disk_bytes - full.disk_bytes == 4 * student


def test_the_plan_counts_adapters_as_adapters(loaded, tmp_path):
    plan = make_plan(loaded(), tmp_path / "run")
    assert [(stage.name, stage.state) for stage in plan.stages[:2]] == [
        ("expert math", "given"), ("expert code", "given"),
    ]  # fmt: skip
    student = fingerprint.fingerprint(STUDENT).parameters
    own = adapters.fingerprint(tmp_path / "math_adapter").parameters
    assert plan.scorer_bytes == 4 * (2 * student + own)  # reference, code, adapter
    elsewhere = f"objective.reference={{kind: model, path: {tmp_path / 'code_expert'}}}"
    assert make_plan(loaded(elsewhere), tmp_path / "run").scorer_bytes == 4 * (3 * student + own)


@pytest.fixture
def opened(loaded, tmp_path):
    """A run's folder and its teachers, as the experts stage makes them."""

    def opened(*overrides):
        run = open_run(loaded(*overrides), tmp_path / "run")
        return run.folder, run.teachers()

    return opened


def test_the_scorer_gets_the_adapter_and_all_others_the_full_model(opened, tmp_path):
    pytest.importorskip("peft")
    folder, (math, code) = opened()
    merged = tmp_path / "home" / "merged"
    assert Path(math.model_path).parent == merged and math.adapter_path == str(tmp_path / "math_adapter")
    assert (code.model_path, code.adapter_path) == (str(tmp_path / "code_expert"), None)
    fingerprint.check_compatible(
        fingerprint.fingerprint(STUDENT), fingerprint.fingerprint(math.model_path), "math"
    )
    tested = {model.name: str(model.path) for model in folder.models([math, code])}
    assert tested["math-teacher"] == math.model_path


@pytest.mark.parametrize("kind", ["shared", "pool", "sharded"])
def test_the_job_names_the_adapter_for_the_shared_scorer_and_the_full_model_for_others(loaded, kind):
    config = loaded(f"scorer.kind={kind}").config
    full, adapter = {"math": "/home/merged/1", "code": "/code"}, {"math": "/adapter"}
    values = merge_job(config, "merge", full, Path("x"), Path("y"), adapter).verl_overrides
    scorer = values["protege.scorer"]
    assert scorer["models"]["math"] == ("/adapter" if kind == "shared" else "/home/merged/1")
    assert scorer["models"]["code"] == "/code"
    assert scorer["base"] == str(STUDENT)
    assert values["distillation.teacher_models.teacher_0"]["model_path"] == "/home/merged/1"


def test_the_probe_decodes_with_the_full_model(loaded, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(probe_module, "sample_optima", lambda config, routed, teachers, *_: teachers)
    teachers = probe_module.probe(loaded(), tmp_path / "run")
    assert Path(teachers["math"]).parent == tmp_path / "home" / "merged"
    assert teachers["code"] == str(tmp_path / "code_expert")


def test_the_average_is_that_of_the_full_models(opened, tmp_path):
    pytest.importorskip("peft")
    from tests.helpers.model_copies import weights_of

    folder, teachers = opened("baselines=[average]")
    run_module.train_baselines(folder, teachers, [], run_module.NoCluster())
    mean = weights_of(folder.baseline("average"))
    math, code = (weights_of(Path(teacher.model_path)) for teacher in teachers)
    for name, value in mean.items():
        assert abs(value - (math[name] + code[name]) / 2).max() < 1e-6


def test_provenance_says_what_is_an_adapter(opened):
    pytest.importorskip("peft")
    folder, teachers = opened()
    folder = SimpleNamespace(config=folder.config, student=STUDENT, counts=dict)
    found = provenance(folder, teachers)
    assert found["teacher math weights"].endswith(" (given, an adapter on the student)")
    assert found["teacher code weights"].endswith(" (given)")


def test_an_adapter_that_is_still_to_be_trained_is_counted_as_one(loaded, tmp_path):
    """Rank 4 on all linear layers is what the given adapter has, too."""
    trained = loaded("domains.math.expert={kind: rl, steps: 2, prompts_per_step: 4, lora_rank: 4}")
    own = adapters.fingerprint(tmp_path / "math_adapter").parameters
    student = fingerprint.fingerprint(STUDENT)
    assert adapters.lora_parameters(student, 4) == own
    assert make_plan(trained, tmp_path / "run").scorer_bytes == 4 * (2 * student.parameters + own)
    given = preflight(loaded(), tmp_path / "run").memory_bytes
    assert preflight(trained, tmp_path / "run").memory_bytes == given
