"""Experts that a config names by id: found, checked, treated as the model or adapter they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError
from configs.load import load_config
from merging.checks.preflight import preflight
from merging.cli.route_text import Routing
from merging.exopd.job import merge_job
from merging.exopd.names import references
from merging.planning.plan import make_plan
from merging.reports.reporting import provenance
from merging.state.run_folder import RunFolder
from merging.training import probe as probe_module
from routing.routers.agreement_file import decisions_key, write_decisions
from routing.routers.decisions import Decision
from teachers.imports import ImportOrder, import_expert
from teachers.registry.local import Registry
from tests.helpers.expert_orders import RECIPE, store_whole
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.messages import refuses, say_each, says
from tests.helpers.model_copies import noisy_copy
from tests.helpers.opened_runs import open_run
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl, write_model


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
    assert found.records == {"math": record} and found.notes == []
    resolved = found.with_folders(setting.load().config).domains["math"].expert
    assert (resolved.kind, resolved.path, resolved.base) == ("model", record.model_path, None)
    given = setting.preflight("domains.math.expert={kind: model, path: ./math_expert}")
    assert (found.memory_bytes, found.disk_bytes) == (given.memory_bytes, given.disk_bytes)
    stages = {stage.name: stage.state for stage in make_plan(setting.load(), setting.run_dir).stages}
    assert (stages["expert math"], stages["expert code"]) == ("found in the registry", "given")


def test_route_finds_what_a_registered_expert_has_decided_on(setting):
    setting.take(setting.folder / "math_expert")
    write_jsonl(setting.folder / "open.jsonl", [{"prompt": f"{i} or so", "answer": "x"} for i in range(3)])
    setting.config |= {"prompts": {"kind": "file", "path": "open.jsonl"}, "routing": {"kind": "agreement"}}
    found = setting.preflight()
    undecided = [item.prompt for item in found.undecided]
    routing = Routing.of(setting.load().config, setting.run_dir)
    assert len(undecided) == len(routing.prompts.undecided) == 3
    decisions = [Decision("math", "moved most")] * 3
    measured = {"kind": "agreement", "unlabelled": 3}
    write_decisions(setting.run_dir, decisions_key(found.config), undecided, decisions, measured)
    assert not setting.preflight().undecided
    routing = Routing.of(setting.load().config, setting.run_dir)
    assert not routing.prompts.undecided and routing.prompts.counts()["math"] == 9


def test_an_adapter_is_a_given_adapter(demo, tmp_path):
    record = demo.take(write_adapter(tmp_path / "adapter", seed=1))
    found, plan = demo.preflight(), make_plan(demo.load(), demo.run_dir)
    assert found.with_folders(demo.load().config).domains["math"].expert.kind == "adapter"
    declared = "domains.math.expert={kind: adapter, path: ./adapter}"
    given = demo.preflight(declared)
    assert (found.memory_bytes, found.disk_bytes) == (given.memory_bytes, given.disk_bytes)
    assert plan.scorer_bytes == make_plan(demo.load(declared), demo.run_dir).scorer_bytes
    assert found.fingerprints["math"].weights_sha256 == record.weights_sha256


def test_the_run_reads_it_and_says_so(demo, tmp_path, monkeypatch):
    record = demo.take(write_adapter(tmp_path / "adapter", seed=1))
    run = open_run(demo.load(), demo.run_dir)
    folder, teachers = run.folder, run.teachers()
    math = teachers[0]
    assert (math.record_id, math.adapter_path) == (record.id, record.model_path)
    assert Path(math.model_path).parent == demo.registry.root / "merged"
    assert demo.registry.uses(record.id) == [demo.run_dir]
    paths = {teacher.domain: teacher.model_path for teacher in teachers}
    own = {"math": math.adapter_path}
    job = merge_job(folder.config, "merge", paths, tmp_path / "rows", tmp_path / "work", own)
    assert job.verl_overrides["protege.scorer"]["models"]["math"] == record.model_path
    monkeypatch.setattr(probe_module, "sample_optima", lambda config, routed, teachers, *_: teachers)
    assert probe_module.probe(demo.load(), demo.run_dir)["math"] == math.model_path
    shutil.copytree(STUDENT, folder.student)
    run.written()
    told = provenance(folder, teachers)["teacher math weights"]
    assert told == f"{record.weights_sha256} (registry {record.id}, an adapter on the student)"
    stored = (demo.run_dir / "config.resolved.yaml").read_text()
    assert "kind: registered" in stored and record.model_path not in stored


def test_another_domains_expert_is_noted(setting):
    record = setting.take(setting.folder / "math_expert")
    setting.config["domains"]["code"]["expert"] = {"kind": "registered", "id": record.id}
    say_each(setting.preflight().notes, ("domains.code.expert", record.id, "imported", "domain 'math'"))


# ------------------------------------------------------------------------------------------- refused


def test_an_unknown_id_is_refused_with_those_there_are(setting):
    record = setting.take(setting.folder / "math_expert")
    setting.name("0000")
    say_each(setting.problems(), ("domains.math.expert", "expert '0000'", "0 experts", record.id))


@pytest.mark.parametrize(
    "change, facts",
    [
        ({"extra_tokens": ("<x>",)}, ("tokenizer", "student's")),
        ({"template": "{{ messages }}"}, ("chat template", "student's")),
        ({"context": 32}, ("context of 32 tokens",)),
    ],
)
def test_one_that_does_not_fit_the_student_is_refused(setting, change, facts):
    record = store_whole(setting.registry, {"x": 1})
    write_model(Path(record.model_path), **change)
    folder = Path(record.path)
    from teachers.models import fingerprint
    from teachers.registry import expert_files

    setting.registry.update(
        replace(
            record,
            files=expert_files.digests(folder),
            size_bytes=expert_files.size(folder),
            weights_sha256=fingerprint.fingerprint(record.model_path).weights_sha256,
        )
    )
    setting.name(record.id)
    say_each(setting.problems(), (f"domains.math.expert ({record.model_path})", *facts))


def test_a_damaged_one_is_refused(setting):
    record = setting.take(setting.folder / "math_expert")
    (Path(record.model_path) / "generation_config.json").unlink()
    says(setting.problems()[0], "generation_config.json", "missing")


def test_an_adapter_on_other_weights_is_refused(demo, tmp_path):
    other = noisy_copy(tmp_path / "other", seed=9)
    demo.config["student"] = str(other)
    demo.take(write_adapter(tmp_path / "adapter", seed=1))
    demo.config["student"] = str(STUDENT)
    say_each(demo.problems(), ("adapter", "other weights", "student's"))


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
        say_each(setting.problems(WANTED, CODE_BASE), (base, record.base_sha256[:12], "`base:`"))
        shutil.rmtree(base, ignore_errors=True)
    elsewhere = write_model(setting.folder / "elsewhere", value=0.3)
    assert reference(setting, f"domains.math.expert.base={elsewhere}") == str(elsewhere)
    wrong = write_model(setting.folder / "wrong", value=0.2)
    problems = setting.problems(WANTED, CODE_BASE, f"domains.math.expert.base={wrong}")
    say_each(problems, (wrong, f"expert {record.id}"))


def test_an_old_record_knows_its_base_by_digest(setting):
    from teachers.models.fingerprint import fingerprint

    student = fingerprint(setting.folder / "student").weights_sha256
    record = store_whole(setting.registry, {"base_weights": student}, value=0.6)
    assert record.base is None
    setting.name(record.id)
    assert reference(setting) == str(setting.folder / "student")


def test_a_base_that_nobody_reads_is_refused(setting, demo, tmp_path):
    setting.take(setting.folder / "math_expert")
    with refuses("math.expert.base", "objective.reference: teacher_base"):
        setting.load("domains.math.expert.base=./student")
    demo.take(write_adapter(tmp_path / "adapter", seed=1))
    code = f"domains.code.expert.base={STUDENT}"
    problems = demo.problems(WANTED, code, f"domains.math.expert.base={STUDENT}")
    say_each(problems, ("adapter", "student", "`base`"))


# ------------------------------------------------------------------------------------ a merge's use


def test_a_found_expert_whose_files_are_others_stops_the_run(setting):
    from merging.experts import build_or_find

    setting.config["domains"]["math"]["expert"] = dict(RECIPE)
    loaded = setting.load()
    found = preflight(loaded, setting.run_dir)
    folder = RunFolder.open(setting.run_dir, loaded, found)
    order = found.experts(folder.config)["math"].order()
    record = store_whole(setting.registry, json.loads(json.dumps(order.identity())))
    assert dict(build_or_find(folder, found, None))["math"] == record
    write_model(Path(record.model_path), value=0.9)
    with refuses("weights", "digest"):
        dict(build_or_find(folder, found, None))


def test_a_remote_registrys_expert_is_fetched(setting, monkeypatch):
    record = setting.take(setting.folder / "math_expert")
    monkeypatch.setenv("PROTEGE_HOME", str(setting.folder / "cache"))
    store = setting.folder / "store" / "experts"
    shutil.copytree(record.path, store / record.id)
    setting.config["registry"] = f"file://{setting.folder}/store"
    path = setting.preflight().fingerprints["math"].path
    assert Path(path).is_relative_to(setting.folder / "cache" / "remote")
