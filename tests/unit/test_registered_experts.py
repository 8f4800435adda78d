"""Experts that a config names by id: found, checked, treated as the model or adapter they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.load import ConfigError, load_config
from merging import run as run_module
from merging.exopd import merge_job, references
from merging.plan import make_plan
from merging.preflight import preflight
from merging.probe import _teacher
from merging.reporting import provenance
from merging.run_folder import RunFolder
from teachers.imports import ImportOrder, import_expert
from teachers.registry import Registry
from tests.unit.expert_orders import RECIPE, store_whole
from tests.unit.lora_adapters import write_adapter
from tests.unit.model_copies import STUDENT, noisy_copy
from tests.unit.tiny_model import config_dict, write_config, write_model


class Setting:
    """A config whose math expert is one of the registry `./home`; the code expert is given."""

    def __init__(self, folder: Path):
        self.folder, self.run_dir = folder, folder / "run"
        self.config = config_dict(folder)
        self.config |= {"registry": "./home", "baselines": []}
        self.registry = Registry(folder / "home")

    def take(self, source, **changes):
        config = load_config(write_config(self.folder, self.config)).config
        record = import_expert(
            self.registry, ImportOrder(str(source), "math", config, evaluate=False, **changes)
        )
        self.name(record.id)
        return record

    def name(self, id, **more):
        self.config["domains"]["math"]["expert"] = {"kind": "registered", "id": id, **more}

    def load(self, *overrides):
        return load_config(write_config(self.folder, self.config), overrides)

    def preflight(self, *overrides):
        return preflight(self.load(*overrides), self.run_dir)

    def problems(self, *overrides):
        with pytest.raises(ConfigError) as caught:
            self.preflight(*overrides)
        return caught.value.problems


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


@pytest.fixture
def demo(tmp_path):
    """With the demo student, which adapters and real models fit."""
    setting = Setting(tmp_path)
    setting.config["student"] = str(STUDENT)
    setting.config["domains"]["code"]["expert"]["path"] = str(noisy_copy(tmp_path / "code", seed=2))
    return setting


# ---------------------------------------------------------------------------------------- what it is


def test_a_full_model_is_a_given_model(setting):
    record = setting.take(setting.folder / "math_expert")
    setting.name(record.id[:7])
    found = setting.preflight()
    assert found.fingerprints["math"].path == record.model_path
    assert found.registered.records == {"math": record} and found.notes == []
    resolved = found.with_folders(setting.load().config).domains["math"].expert
    assert (resolved.kind, resolved.path, resolved.base) == ("model", record.model_path, None)
    given = setting.preflight("domains.math.expert={kind: model, path: ./math_expert}")
    assert (found.memory_bytes, found.disk_bytes) == (given.memory_bytes, given.disk_bytes)
    stages = {stage.name: stage.state for stage in make_plan(setting.load(), setting.run_dir).stages}
    assert (stages["expert math"], stages["expert code"]) == ("found in the registry", "given")


def test_an_adapter_is_a_given_adapter(demo, tmp_path):
    record = demo.take(write_adapter(tmp_path / "adapter", seed=1))
    found, plan = demo.preflight(), make_plan(demo.load(), demo.run_dir)
    assert found.with_folders(demo.load().config).domains["math"].expert.kind == "adapter"
    declared = "domains.math.expert={kind: adapter, path: ./adapter}"
    given = demo.preflight(declared)
    assert (found.memory_bytes, found.disk_bytes) == (given.memory_bytes, given.disk_bytes)
    assert plan.scorer_bytes == make_plan(demo.load(declared), demo.run_dir).scorer_bytes
    assert found.fingerprints["math"].weights_sha256 == record.weights_sha256


def test_the_run_reads_it_and_says_so(demo, tmp_path):
    record = demo.take(write_adapter(tmp_path / "adapter", seed=1))
    loaded = demo.load()
    found = preflight(loaded, demo.run_dir)
    folder = RunFolder.open(demo.run_dir, loaded, found)
    teachers = run_module.experts(folder, found, SimpleNamespace())
    math = teachers[0]
    assert (math.record_id, math.adapter_path) == (record.id, record.model_path)
    assert Path(math.model_path).parent == demo.registry.root / "merged"
    assert demo.registry.uses(record.id) == [demo.run_dir]
    paths = {teacher.domain: teacher.model_path for teacher in teachers}
    own = {"math": math.adapter_path}
    job = merge_job(folder.config, "merge", paths, tmp_path / "rows", tmp_path / "work", own)
    assert job.verl_overrides["protege.scorer"]["models"]["math"] == record.model_path
    assert _teacher(folder.config, found, "math") == math.model_path
    shutil.copytree(STUDENT, folder.student)
    run_module.write_prompts(folder, found)
    told = provenance(folder, teachers)["teacher math weights"]
    assert told == f"{record.weights_sha256} (registry {record.id}, an adapter on the student)"
    stored = (demo.run_dir / "config.resolved.yaml").read_text()
    assert "kind: registered" in stored and record.model_path not in stored


def test_another_domains_expert_is_noted(setting):
    record = setting.take(setting.folder / "math_expert")
    setting.config["domains"]["code"]["expert"] = {"kind": "registered", "id": record.id}
    assert setting.preflight().notes == [f"domains.code.expert: {record.id} was imported for domain 'math'"]


# ------------------------------------------------------------------------------------------- refused


def test_an_unknown_id_is_refused_with_those_there_are(setting):
    record = setting.take(setting.folder / "math_expert")
    setting.name("0000")
    (problem,) = setting.problems()
    assert problem.startswith("domains.math.expert: expert '0000': 0 experts match") and record.id in problem


@pytest.mark.parametrize(
    "change, words",
    [
        ({"extra_tokens": ("<x>",)}, "another tokenizer than the student's"),
        ({"template": "{{ messages }}"}, "another chat template than the student's"),
        ({"context": 32}, "context of 32 tokens is too short"),
    ],
)
def test_one_that_does_not_fit_the_student_is_refused(setting, change, words):
    record = store_whole(setting.registry, {"x": 1})
    write_model(Path(record.model_path), **change)
    folder = Path(record.path)
    from teachers import expert_files, fingerprint

    setting.registry.update(
        replace(
            record,
            files=expert_files.digests(folder),
            size_bytes=expert_files.size(folder),
            weights_sha256=fingerprint.fingerprint(record.model_path).weights_sha256,
        )
    )
    setting.name(record.id)
    (problem,) = setting.problems()
    assert problem.startswith(f"domains.math.expert ({record.model_path}): ") and words in problem


def test_a_damaged_one_is_refused(setting):
    record = setting.take(setting.folder / "math_expert")
    (Path(record.model_path) / "generation_config.json").unlink()
    assert "generation_config.json is missing" in setting.problems()[0]


def test_an_adapter_on_other_weights_is_refused(demo, tmp_path):
    other = noisy_copy(tmp_path / "other", seed=9)
    demo.config["student"] = str(other)
    demo.take(write_adapter(tmp_path / "adapter", seed=1))
    demo.config["student"] = str(STUDENT)
    (problem,) = demo.problems()
    assert "is an adapter on other weights than the student's" in problem


# ----------------------------------------------------------------------------------- teacher_base

WANTED = "objective.reference=teacher_base"
CODE_BASE = "domains.code.expert.base=./student"


def reference(setting, *overrides):
    loaded = setting.load(WANTED, CODE_BASE, *overrides)
    found = preflight(loaded, setting.run_dir)
    config = found.with_folders(loaded.config)
    names, models = references(config)
    return models[names["math"]]


def test_the_records_base_is_the_reference(setting):
    base = write_model(setting.folder / "base", value=0.3)
    setting.take(setting.folder / "math_expert", base=str(base))
    assert reference(setting) == str(base)
    assert setting.preflight().with_folders(setting.load().config).reference_of("math") == str(
        setting.folder / "student"
    )


def test_the_student_and_experts_of_the_registry_are_bases_too(setting):
    parent = setting.take(setting.folder / "math_expert")
    assert reference(setting) == str(setting.folder / "student")
    moved = shutil.copytree(parent.model_path, setting.folder / "parent")
    setting.take(write_model(setting.folder / "child", value=0.9), base=str(moved))
    shutil.rmtree(moved)
    assert reference(setting) == parent.model_path


def test_a_base_that_is_gone_or_changed_is_refused_with_what_to_do(setting):
    base = write_model(setting.folder / "base", value=0.3)
    record = setting.take(setting.folder / "math_expert", base=str(base))
    write_model(base, value=0.31)
    for _ in range(2):
        (problem,) = setting.problems(WANTED, CODE_BASE)
        assert f"{base} is not there with weights {record.base_sha256[:12]} any more; give `base:`" in problem
        shutil.rmtree(base, ignore_errors=True)
    elsewhere = write_model(setting.folder / "elsewhere", value=0.3)
    assert reference(setting, f"domains.math.expert.base={elsewhere}") == str(elsewhere)
    wrong = write_model(setting.folder / "wrong", value=0.2)
    (problem,) = setting.problems(WANTED, CODE_BASE, f"domains.math.expert.base={wrong}")
    assert "is not what expert" in problem


def test_an_old_record_knows_its_base_by_digest(setting):
    from teachers.fingerprint import fingerprint

    student = fingerprint(setting.folder / "student").weights_sha256
    record = store_whole(setting.registry, {"base_weights": student}, value=0.6)
    assert record.base is None
    setting.name(record.id)
    assert reference(setting) == str(setting.folder / "student")


def test_a_base_that_nobody_reads_is_refused(setting, demo, tmp_path):
    setting.take(setting.folder / "math_expert")
    with pytest.raises(
        ConfigError, match=r"math.expert.base is read with objective.reference: teacher_base only"
    ):
        setting.load("domains.math.expert.base=./student")
    demo.take(write_adapter(tmp_path / "adapter", seed=1))
    code = f"domains.code.expert.base={STUDENT}"
    (problem,) = demo.problems(WANTED, code, f"domains.math.expert.base={STUDENT}")
    assert "is an adapter on the student; leave `base` out" in problem


# ------------------------------------------------------------------------------------ a merge's use


def test_a_found_expert_whose_files_are_others_stops_the_run(setting):
    from merging.experts import build_or_find, orders

    setting.config["domains"]["math"]["expert"] = dict(RECIPE)
    loaded = setting.load()
    found = preflight(loaded, setting.run_dir)
    folder = RunFolder.open(setting.run_dir, loaded, found)
    order = orders(folder.config, found)["math"]
    record = store_whole(setting.registry, json.loads(json.dumps(order.identity())))
    assert dict(build_or_find(folder, found, None))["math"] == record
    write_model(Path(record.model_path), value=0.9)
    with pytest.raises(ConfigError, match="its weights have digest"):
        dict(build_or_find(folder, found, None))


def test_a_remote_registrys_expert_is_fetched(setting, monkeypatch):
    record = setting.take(setting.folder / "math_expert")
    monkeypatch.setenv("PROTEGE_HOME", str(setting.folder / "cache"))
    store = setting.folder / "store" / "experts"
    shutil.copytree(record.path, store / record.id)
    setting.config["registry"] = f"file://{setting.folder}/store"
    path = setting.preflight().fingerprints["math"].path
    assert Path(path).is_relative_to(setting.folder / "cache" / "remote")
