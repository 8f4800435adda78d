"""`protege report RUN` writes the report from what is stored, starts nothing, and refuses what is missing."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import partial

import pytest
import yaml

from common.errors import ConfigError
from configs.load import load_config
from eval.records import Completion
from merging import run as run_module
from merging.checks.preflight import preflight
from merging.state.cluster import NoCluster
from merging.state.run_folder import RESOLVED, RunFolder, load_resolved
from tests.helpers.cli_runner import protege
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model


class Answers:
    """Stands for the generator: every second problem is answered rightly."""

    def __init__(self, **_arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, model, problems, mode, n, temperature, seed, max_tokens, on_progress):
        return {
            problem.id: [Completion(f"\\boxed{{{place + 1 if place % 2 else 'no'}}}", 4, True)] * n
            for place, problem in enumerate(problems)
        }


evaluate = partial(run_module.evaluate_models, make_generator=Answers)


@pytest.fixture
def folder(tmp_path):
    """A trained run whose models are evaluated; its report is not written."""
    config = config_dict(tmp_path) | {"registry": "./home", "evaluation": {"samples_per_problem": 2}}
    write_jsonl(tmp_path / "sums.jsonl", [{"id": f"p{i}", **row} for i, row in enumerate(sum_rows(4))])
    config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": "./sums.jsonl"}]
    loaded = load_config(write_config(tmp_path, config))
    found = preflight(loaded, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run", loaded, found)
    run_module.write_prompts(folder, found)
    for place in (folder.student, folder.baseline("average")):
        write_model(place, value=0.8)
    evaluate(folder, run_module.experts(folder, found, NoCluster()))
    return folder


@pytest.fixture
def idle(monkeypatch):
    """What generates, grades or builds fails, and so does every process that is more than a look around."""

    def never(*_args, **_kwargs):
        raise AssertionError("must not be called")

    def looks_around(process, command, *args, **kwargs):
        assert command[0] in ("git", "uname"), command  # the version and the machine
        started(process, command, *args, **kwargs)

    for name in ("suite.evaluate", "benchmarks.task.self_check", "generation.generate.Generator"):
        monkeypatch.setattr(f"eval.{name}", never)
    for name in ("build_or_find", "merge_weights", "train_student", "evaluate_models", "preflight"):
        monkeypatch.setattr(run_module, name, never)
    started = subprocess.Popen.__init__
    monkeypatch.setattr(subprocess.Popen, "__init__", looks_around)


def refused(folder) -> str:
    """The one message of the refusal, which names the command that helps."""
    result = protege("report", folder.path)
    (message,) = result.errors
    assert result.code == 2 and not (folder.path / "report.json").exists()
    return message


def test_the_report_is_written_from_what_is_stored(folder, idle):
    result = protege("report", folder.path)
    assert (result.code, result.err) == (0, "")
    report = json.loads((folder.path / "report.json").read_text())
    assert report["models"].keys() == {"base", "math-teacher", "code-teacher", "student", "average"}
    assert report["models"]["student"]["benchmarks"]["sums"]["accuracy"] == 0.5
    provenance = json.loads((folder.path / "manifest.json").read_text())["provenance"]
    assert provenance["teacher code weights"].endswith(" (given)")
    before = {path: path.stat().st_mtime_ns for path in folder.samples.rglob("*.jsonl")}
    assert protege("report", folder.path).code == 0
    assert {path: path.stat().st_mtime_ns for path in folder.samples.rglob("*.jsonl")} == before


def test_an_answer_that_nobody_can_judge_is_no_missing_verdict(folder, idle):
    place = folder.samples / "student" / "sums.jsonl"
    key = place.with_name("sums.key.json")
    place.write_text(place.read_text().replace('"verdict": "pass"', '"verdict": "unscored"', 1))
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    key.write_text(json.dumps(json.loads(key.read_text()) | {"samples": digest}))
    assert protege("report", folder.path).code == 0
    report = json.loads((folder.path / "report.json").read_text())
    assert report["models"]["student"]["benchmarks"]["sums@greedy"]["unscored"] == 1


def test_missing_and_stale_samples_are_refused_in_one_message(folder, idle):
    (folder.samples / "student" / "sums.jsonl").unlink()
    key = folder.samples / "average" / "sums.key.json"
    # as a grading that was stopped left it
    key.write_text(json.dumps(json.loads(key.read_text()) | {"grading": None}))
    message = refused(folder)
    assert "no samples for student on sums;" in message and "samples for average on sums were made" in message
    assert f"`protege eval {folder.path}`" in message


@pytest.mark.parametrize(
    ("section", "change"),
    [("evaluation", {"temperature": 0.5}), ("evaluation", {"samples_per_problem": 3}), ("training", {})],
)
def test_samples_of_other_settings_are_refused(folder, idle, section, change):
    """The stored config is what counts; a changed model makes samples stale as well."""
    stored = yaml.safe_load((folder.path / RESOLVED).read_text())
    stored[section] |= change
    (folder.path / RESOLVED).write_text(yaml.safe_dump(stored))
    if not change:
        write_model(folder.student, value=0.1)
    message = refused(folder)
    models = ("base", "math-teacher", "code-teacher", "student", "average") if change else ("student",)
    assert f"samples for {', '.join(f'{model} on sums' for model in models)} were made with other" in message


def test_a_benchmark_that_was_added_is_refused(folder, idle):
    stored = yaml.safe_load((folder.path / RESOLVED).read_text())
    (benchmark,) = stored["domains"]["math"]["benchmarks"]
    stored["domains"]["code"]["benchmarks"] = [benchmark | {"name": "more"}]
    (folder.path / RESOLVED).write_text(yaml.safe_dump(stored))
    message = refused(folder)
    assert "benchmark more" in message and f"`protege eval {folder.path}`" in message


def test_a_run_that_is_not_trained_is_refused(folder, idle):
    folder.student.rename(folder.path / "elsewhere")
    assert "has no trained student yet; `protege merge` trains it" in refused(folder)


def test_a_run_of_the_version_before_is_evaluated_first(folder, monkeypatch):
    """It does not say which experts were evaluated."""
    (folder.path / "teachers.json").unlink()
    assert "teachers.json" in refused(folder)
    monkeypatch.setattr(run_module, "evaluate_models", evaluate)
    page = run_module.evaluate_run(folder.path)
    page.unlink()
    assert run_module.report_run(folder.path) == page and page.exists()


def test_a_baseline_that_is_declared_and_not_made_is_refused(folder, idle):
    stored = yaml.safe_load((folder.path / RESOLVED).read_text())
    stored["baselines"] = ["ties"]
    (folder.path / RESOLVED).write_text(yaml.safe_dump(stored))
    with pytest.raises(ConfigError, match=r"baseline `ties` is not made yet .*`protege merge` makes it"):
        run_module.report_run(folder.path)


def test_a_resolved_config_that_was_cut_off_is_refused_wherever_it_was_cut(folder, idle):
    """What it lacks would be taken for a default."""
    path = folder.path / RESOLVED
    whole = path.read_bytes()
    lines = [place + 1 for place in range(len(whole)) if whole[place : place + 1] == b"\n"][:-1]
    for end in [*lines[-3:], lines[-20], *range(len(whole) - 3, len(whole))]:
        path.write_bytes(whole[:end])
        with pytest.raises(ConfigError, match=str(path)):
            load_resolved(folder.path)
    assert "cut off" in refused(folder)
    assert path.read_bytes() == whole[:-1]


def test_a_refused_report_leaves_the_config_as_it_was(folder, idle):
    path = folder.path / RESOLVED
    changed = yaml.safe_load(path.read_text())
    changed["evaluation"]["seed"] = 7
    text = "# by hand\n" + yaml.safe_dump(changed, sort_keys=False)
    path.write_text(text)
    assert "the report cannot be written" in refused(folder)
    assert path.read_text() == text


@pytest.mark.parametrize("change", [lambda each: each * 2, lambda each: each[:1], lambda each: []])
def test_experts_of_other_domains_are_refused(folder, idle, change):
    path = folder.path / "teachers.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert "holds the experts of" in refused(folder)
