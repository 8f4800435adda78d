"""What a merge's evaluation leaves in the records of its registry experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.experts import record_scores
from merging.state.run_folder import RunFolder
from merging.state.teacher import Teacher
from teachers.models.fingerprint import fingerprint
from teachers.registry.local import Registry
from tests.helpers.cli_runner import protege
from tests.helpers.expert_orders import store_whole
from tests.helpers.judged_answers import answers
from tests.helpers.messages import says
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl


class Setting:
    def __init__(self, folder: Path):
        self.folder, self.registry = folder, Registry(folder / "home")
        config = config_dict(folder)
        config["registry"] = "./home"
        write_jsonl(folder / "b.jsonl", [{"prompt": "9+9", "answer": "18"}])
        config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "bench", "path": "./b.jsonl"}]
        self.config = config
        loaded = load_config(write_config(folder, config))
        self.run = RunFolder.open(folder / "run", loaded, preflight(loaded, folder / "run"))
        self.student = fingerprint(folder / "student").weights_sha256

    def teacher(self, record, domain="math"):
        return Teacher(domain, record.model_path, record.weights_sha256, record.id)

    def keep(self, record, right=(1, 1, 1, 0), domain="math"):
        samples = {
            ("math-teacher", "bench"): answers(list(right)),
            ("base", "bench"): answers([0, 0, 0, 1]),
            ("student", "bench"): answers([0, 0, 0, 0]),
        }
        given = Teacher("code", "somewhere", "0" * 64, None)
        record_scores(self.run, [self.teacher(record, domain), given], samples)
        return self.registry.find(record.id)


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


def test_the_teachers_scores_are_kept_with_those_of_its_base(setting):
    record = store_whole(setting.registry, {"base_weights": setting.student})
    kept = setting.keep(record)
    score = kept.evaluation["bench"]
    assert (score["accuracy"], score["base"]["accuracy"], score["difference"], score["n"]) == (
        0.75,
        0.25,
        0.5,
        4,
    )
    assert kept.evaluation_settings["temperature"] == 1.0
    assert replace(kept, evaluation=None, evaluation_settings=None) == record
    assert setting.registry.verify(record.id) == kept
    assert "bench 75.0% (n 4)" in protege("experts", "list", "--registry", setting.registry.root).out


def test_scores_that_are_there_stay(setting):
    record = store_whole(setting.registry, {"base_weights": setting.student})
    first = setting.keep(record)
    assert setting.keep(record, right=[0, 0, 0, 0]) == first


def test_an_expert_of_another_base_is_not_compared_with_the_student(setting):
    record = store_whole(setting.registry, {"base_weights": "0" * 64})
    score = setting.keep(record).evaluation["bench"]
    assert score.keys() == {"accuracy", "n", "answers", "interval", "unscored"}
    shown = protege("experts", "show", record.id, "--registry", setting.registry.root).out
    assert "bench: 75.0%" in shown and "its base" not in shown


def test_what_could_not_be_judged_is_shown_as_not_measured(setting):
    record = store_whole(setting.registry, {"base_weights": setting.student})
    kept = setting.keep(record, right=[None, None, None, None])
    assert kept.evaluation["bench"]["accuracy"] is None
    place = ("--registry", setting.registry.root)
    assert "bench not measured (n 0)" in protege("experts", "list", *place).out
    shown = protege("experts", "show", record.id, *place).out
    says(shown, "bench", "not measured", "4 answers unscored", "difference")


def test_an_expert_that_teaches_another_domain_is_left_alone(setting):
    record = store_whole(setting.registry, {"base_weights": setting.student})
    setting.registry.update(replace(record, domain="other"))
    assert setting.keep(record).evaluation is None


def test_an_expert_that_was_removed_meanwhile_stays_away(setting):
    record = store_whole(setting.registry, {"base_weights": setting.student})
    setting.registry.remove(record.id)
    setting.registry.update(record)
    assert setting.registry.list() == [] and not setting.registry.folder(record.id).exists()
    assert setting.keep(record) is None


def test_a_registry_that_cannot_be_written_is_a_warning(setting, monkeypatch):
    import teachers.registry.local as module

    record = store_whole(setting.registry, {"base_weights": setting.student})

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    said = []
    monkeypatch.setattr("merging.experts.say", said.append)
    assert setting.keep(record).evaluation is None
    (line,) = said
    says(line, "warning", f"expert {record.id}", "No space left")
