"""What is refused of teachers that servers hold, and what is said of them."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from common.errors import ConfigError
from configs.load import load_config
from merging import run as run_module
from merging.checks.machine import scored_parameters
from merging.checks.preflight import preflight
from merging.planning.plan import make_plan
from merging.reports.reporting import provenance
from merging.state.cluster import NoCluster
from merging.state.run_folder import RunFolder
from merging.state.served import read_facts, write_facts
from merging.sweep import sweep
from merging.training.probe import probe
from teachers.models.fingerprint import fingerprint
from teachers.served.generation import ServedAnswers
from tests.helpers.cli_runner import protege, refused
from tests.helpers.fake_server import FakeServer, plain_logp
from tests.helpers.messages import refuses
from tests.helpers.model_copies import STUDENT, noisy_copy
from tests.helpers.opened_runs import expert_beside_model


@pytest.fixture
def server():
    with FakeServer(STUDENT) as server:
        yield server


@pytest.fixture
def given(tmp_path, server):
    """A config with a served math teacher without a folder, and code as a full model."""
    math = {"kind": "served", "url": server.url, "model": "teacher"}
    return expert_beside_model(tmp_path, math) | {"baselines": []}


def load(tmp_path, given, *overrides):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return load_config(file, overrides)


def check(tmp_path, given, *overrides):
    return preflight(load(tmp_path, given, *overrides), tmp_path / "run")


def problems(tmp_path, given, *overrides) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, given, *overrides)
    return caught.value.problems


# ------------------------------------------------------------------------------------- preflight


def test_the_servers_words_are_found_and_the_scorer_holds_the_others(tmp_path, given, server):
    found = check(tmp_path, given)
    assert found.served.keys() == {"math"} and found.served["math"].url == server.url
    size = fingerprint(STUDENT).parameters
    assert scored_parameters(found.config, found.fingerprints) == 2 * size  # reference and code


def test_a_server_that_is_gone_is_one_message_within_seconds(tmp_path, given):
    given["domains"]["math"]["expert"]["url"] = "http://127.0.0.1:9/v1"
    began = time.monotonic()
    (problem,) = problems(tmp_path, given)
    assert problem.startswith("domains.math.expert: model 'teacher' at http://127.0.0.1:9/v1: no answer")
    assert time.monotonic() - began < 30


def test_check_shows_the_server_and_refuses_one_that_is_gone_without_a_traceback(tmp_path, given, server):
    file = load(tmp_path, given).path
    shown = protege("check", file, "--run-dir", tmp_path / "run")
    assert shown.code == 0 and f"served   math: teacher at {server.url}, context 4096" in shown.out
    gone = "domains.math.expert.url=http://127.0.0.1:9/v1"
    message = refused("check", file, "--run-dir", tmp_path / "run", "--set", gone)
    assert "Cannot connect to host 127.0.0.1:9" in message


def test_a_key_that_is_not_set_or_wrong_is_refused(tmp_path, given, server, monkeypatch):
    server.key = "right"
    given["domains"]["math"]["expert"]["api_key_env"] = "SERVER_KEY"
    monkeypatch.delenv("SERVER_KEY", raising=False)
    (problem,) = problems(tmp_path, given)
    assert problem.startswith(
        "domains.math.expert.api_key_env: the environment variable SERVER_KEY is not set"
    )
    monkeypatch.setenv("SERVER_KEY", "wrong")
    (problem,) = problems(tmp_path, given)
    assert "does not accept the key in SERVER_KEY (HTTP 401" in problem


def test_a_context_shorter_than_prompt_and_response_is_refused(tmp_path, given, server):
    server.context = 32
    (problem,) = problems(tmp_path, given)
    assert "context of 32 tokens is too short: 33 are needed" in problem


def test_other_weights_than_when_the_run_began_are_refused(tmp_path, given, server):
    write_facts(tmp_path / "run", check(tmp_path, given).served)
    assert check(tmp_path, given).served == read_facts(tmp_path / "run")
    server.logp = lambda ids, place: plain_logp(ids, place) - 0.5
    (problem,) = problems(tmp_path, given)
    assert "has other weights than when this run began" in problem and "moved by 0.5 nats" in problem
    before = read_facts(tmp_path / "run")["math"]
    tolerant = "domains.math.expert.canary_tolerance=0.6"
    assert check(tmp_path, given, tolerant).served["math"] == before  # later readings are compared with that
    server.context = 64
    moved = check(tmp_path, given, tolerant).served["math"]
    assert (moved.max_model_len, moved.canary_logp) == (64, before.canary_logp)


def test_a_run_whose_rollouts_are_scored_asks_no_server(tmp_path, given, server):
    facts = check(tmp_path, given).served
    write_facts(tmp_path / "run", facts)
    (tmp_path / "run" / "student").mkdir()
    given["domains"]["math"]["expert"]["url"] = "http://127.0.0.1:9/v1"
    assert check(tmp_path, given).served == facts
    given["baselines"] = ["opd"]  # its rollouts are still to be scored
    assert "no answer" in problems(tmp_path, given)[0]


# ------------------------------------------------------------------------------- without a folder


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("baselines", ["average"], "baselines: `average` reads"),
        ("baselines", ["sft", "ties"], "baselines: `sft`, baselines: `ties` read this"),
        ("objective", {"reward_scale": "auto"}, "objective.reward_scale: auto reads"),
    ],
)
def test_what_reads_weights_is_refused_without_a_folder(tmp_path, given, key, value, said):
    (problem,) = problems(tmp_path, {**given, key: value})
    assert problem.startswith("domains.math.expert.path: ") and said in problem


def test_with_the_folder_of_the_same_model_it_is_not(tmp_path, given):
    noisy_copy(tmp_path / "math_expert", seed=1)
    given["domains"]["math"]["expert"]["path"] = "./math_expert"
    given["baselines"] = ["average", "sft", "oracle"]
    found = check(tmp_path, given)
    assert found.fingerprints["math"].path == str(tmp_path / "math_expert")
    assert not any("not measured" in note for note in found.notes)
    folder = RunFolder.open(tmp_path / "run", load(tmp_path, given), found)
    math, _ = run_module.experts(folder, found, NoCluster())
    assert math.model_path == str(tmp_path / "math_expert") and math.served is not None


def test_a_probe_asks_for_the_folder(tmp_path, given):
    with refuses("domains.math.expert.path", "a probe reads this teacher's weights"):
        probe(load(tmp_path, given), tmp_path / "run")


def test_a_sweep_with_a_probe_asks_for_the_folder_and_one_without_does_not(tmp_path, given, monkeypatch):
    file = load(tmp_path, given).path
    with refuses("domains.math.expert.path", "a probe reads this teacher's weights"):
        sweep(file, (), [1.0, 1.25], 1, tmp_path / "sweep", with_probe=True)

    def stop(folder: RunFolder) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("merging.sweep.check_harness", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep(file, (), [1.0, 1.25], 1, tmp_path / "sweep")
    runs = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/served.json"))
    assert runs == ["lambda-1.25.seed-42", "lambda-1.seed-42"]


def test_a_teacher_without_a_folder_answers_by_its_server(tmp_path, given, server):
    found = check(tmp_path, given, "baselines=[oracle]")
    folder = RunFolder.open(tmp_path / "run", load(tmp_path, given), found)
    write_facts(folder.path, found.served)
    _, math, code, _ = folder.models(run_module.experts(folder, found, NoCluster()))
    assert (math.name, math.path, code.served) == ("math-teacher", None, None)
    assert isinstance(math.served, ServedAnswers)
    assert math.served.served.url == server.url and math.served.digest == found.served["math"].sha256
    assert provenance_of_teacher(folder, found) == {
        "teacher math canary": f"{math.served.digest} (no folder of its weights)",
        "math is served as": found.served["math"].told(),
    }


def provenance_of_teacher(folder: RunFolder, found) -> dict[str, str]:
    """What the report says of the math teacher."""
    noisy_copy(folder.student, seed=3)
    write_counts(folder)
    told = provenance(folder, run_module.experts(folder, found, NoCluster()))
    return {name: text for name, text in told.items() if name.startswith(("teacher math", "math is"))}


def write_counts(folder: RunFolder) -> None:
    (folder.path / "prompts").mkdir()
    (folder.path / "prompts" / "counts.json").write_text('{"prompts": {}, "rows": {}}')


def test_the_context_holds_the_evaluations_answers_too(tmp_path, given, server):
    server.context = 40
    check(tmp_path, given)
    (problem,) = problems(tmp_path, given, "evaluation.max_response_tokens=24")
    assert "context of 40 tokens is too short: 41 are needed" in problem


# --------------------------------------------------------------------------------------- reference


SERVED = {"kind": "served", "model": "teacher"}


def test_two_engines_are_said_and_one_is_not(tmp_path, given, server):
    def said() -> list[str]:
        return [note for note in check(tmp_path, given).notes if "do not cancel" in note]

    (note,) = said()
    assert note.startswith("math: the teacher is read by its server and the reference by the shared scorer")
    loaded = load(tmp_path, given)
    assert note in make_plan(loaded, tmp_path / "run").assumptions
    given["objective"] = {"reference": {**SERVED, "url": server.url}}
    (note,) = said()
    assert note.startswith("code: the reference is read by a server and the teacher by the shared scorer")
    given["domains"]["code"]["expert"] = given["domains"]["math"]["expert"]
    assert said() == []


def test_a_served_reference_is_asked_as_a_teacher_is(tmp_path, given, server):
    given["objective"] = {"reference": {**SERVED, "url": server.url}}
    found = check(tmp_path, given)
    assert found.served.keys() == {"math", "reference"}
    assert scored_parameters(found.config, found.fingerprints) == fingerprint(STUDENT).parameters  # code
    given["objective"]["reference"]["model"] = "other"
    (problem,) = problems(tmp_path, given)
    assert problem.startswith("objective.reference: model 'other'") and "valid: 'teacher'" in problem


@pytest.mark.parametrize("estimator", ["full", "topk"])
def test_whole_distributions_are_not_sent(tmp_path, given, estimator):
    with refuses(f"objective.estimator: {estimator}", "a server (domains.math.expert)", "sampled"):
        load(tmp_path, given, f"objective.estimator={estimator}")


@pytest.mark.parametrize("url", ["host:8000/v1", "ftp://host/v1", "http://user:word@host/v1", "http://"])
def test_an_address_that_is_none_is_refused(tmp_path, given, url):
    given["domains"]["math"]["expert"]["url"] = url
    with refuses("domains.math.expert", "url"):
        load(tmp_path, given)


# -------------------------------------------------------------------------------------- run folder


def test_another_address_of_the_same_model_continues_the_run_and_another_model_does_not(
    tmp_path, given, server
):
    found = check(tmp_path, given)
    RunFolder.open(tmp_path / "run", load(tmp_path, given), found)
    moved = load(
        tmp_path, given, "domains.math.expert.url=http://other/v1", "domains.math.expert.max_requests=3"
    )
    RunFolder.open(tmp_path / "run", moved, found)
    with refuses("holds another merge", "domains"):
        other = load(tmp_path, given, "domains.math.expert.model=other")
        RunFolder.open(tmp_path / "run", other, found)


def test_the_references_address_may_change_too(tmp_path, given, server):
    given["objective"] = {"reference": {**SERVED, "url": server.url}}
    found = check(tmp_path, given)
    RunFolder.open(tmp_path / "run", load(tmp_path, given), found)
    key = "objective.reference"
    RunFolder.open(tmp_path / "run", load(tmp_path, given, f"{key}.url=http://other/v1"), found)
    with refuses("holds another merge", "objective"):
        RunFolder.open(tmp_path / "run", load(tmp_path, given, f"{key}.model=other"), found)


def test_the_key_is_nowhere_in_the_run_folder(tmp_path, given, server, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "very-secret")
    server.key = "very-secret"
    given["domains"]["math"]["expert"]["api_key_env"] = "SERVER_KEY"
    found = check(tmp_path, given)
    RunFolder.open(tmp_path / "run", load(tmp_path, given), found)
    write_facts(tmp_path / "run", found.served)
    texts = [path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert texts and not any("very-secret" in text for text in texts)
    assert json.loads((tmp_path / "run" / "served.json").read_text())["math"]["model"] == "teacher"
