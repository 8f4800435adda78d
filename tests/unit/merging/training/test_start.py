"""`training.start`: what is trained, made once, told in plan and report; and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from configs.load import load_config
from merging.checks.preflight import preflight
from merging.exopd.job import merge_job
from merging.exopd.names import START
from merging.fetching import named_things
from merging.planning.plan import make_plan
from merging.reports.reporting import notes, provenance, reference_text
from merging.state.cluster import here
from merging.training.distil import Distillation
from merging.training.start import make_start, prepare_start
from merging.training.start_distance import expected_distances
from teachers.models.fingerprint import fingerprint
from tests.helpers.messages import problems_of, refuses, say_each, says
from tests.helpers.model_copies import noisy_copy, weights_of
from tests.helpers.opened_runs import adapter_beside_model, expert_beside_model, open_run
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import config_dict, write_config, write_model

torch = pytest.importorskip("torch")


@pytest.fixture
def opened(tmp_path):
    """Opens a run of two full models, or of this config, with these overrides."""
    noisy_copy(tmp_path / "math_expert", seed=1)
    two_models = expert_beside_model(tmp_path, {"kind": "model", "path": "./math_expert"})

    def opened(*overrides, config=None):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config or two_models, sort_keys=False))
        loaded = load_config(file, ["training.start=average", "baselines=[]", *overrides])
        return open_run(loaded, tmp_path / "run")

    return opened


def test_the_average_of_the_experts_is_made_once_and_kept(opened, tmp_path):
    run = opened()
    make_start(run.folder, run.teachers())
    assert run.folder.start == tmp_path / "run" / "start"
    found, experts = weights_of(run.folder.start), [weights_of(Path(t.folder)) for t in run.teachers()]
    for name, value in found.items():
        np.testing.assert_allclose(value, (experts[0][name] + experts[1][name]) / 2, atol=1e-7)
    before = (run.folder.start / "model.safetensors").stat().st_mtime_ns
    make_start(opened().folder, run.teachers())
    assert (run.folder.start / "model.safetensors").stat().st_mtime_ns == before


def test_a_start_without_its_record_is_made_anew(opened):
    """As after a stop between weights and record."""
    run = opened()
    make_start(run.folder, run.teachers())
    (run.folder.start / "baseline.json").unlink()
    (run.folder.start / "model.safetensors").write_bytes(b"")
    make_start(run.folder, run.teachers())
    assert weights_of(run.folder.start)


def test_every_merge_of_weights_has_its_options(opened):
    run = opened("training.start={kind: task_arithmetic, scale: 0.5}")
    make_start(run.folder, run.teachers())
    base, *experts = (weights_of(place) for place in (STUDENT, *(Path(t.folder) for t in run.teachers())))
    for name, value in weights_of(run.folder.start).items():
        expected = base[name] + 0.5 * sum(expert[name] - base[name] for expert in experts)
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_adapters_are_merged_as_full_models(opened, tmp_path):
    run = opened(config=adapter_beside_model(tmp_path))
    teachers = run.teachers()
    assert teachers[0].adapter_path is not None
    make_start(run.folder, teachers)
    math, code = (weights_of(Path(teacher.folder)) for teacher in teachers)
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_allclose(weights_of(run.folder.start)[name], (math[name] + code[name]) / 2, atol=1e-7)


@pytest.mark.parametrize("name", ["merge", "opd"])
def test_it_is_what_is_trained_and_exported_and_not_the_reference(opened, monkeypatch, name):
    run, trained = opened().written(), []
    monkeypatch.setattr("trainer.run.train", lambda job, cluster, on_step, *_: trained.append(job))
    monkeypatch.setattr("trainer.export.export", lambda *given: trained.append(given[2]))
    monkeypatch.setattr("routing.trained_rows.check_trained", lambda *_: None)
    scale = None if name == "merge" else 1.0
    Distillation(run.folder, run.teachers(), name, run.folder.path / name, scale).run(
        lambda: None, run.folder.student
    )
    job, base = trained
    assert job.model_path == str(run.folder.start) and base == run.folder.start
    assert run.folder.start == run.folder.path / "start"
    scorer = job.verl_overrides["protege.scorer"]
    assert scorer["base"] == str(STUDENT)
    if name == "merge":
        assert scorer["models"]["reference"] == str(STUDENT)


def test_by_default_the_student_is_trained(opened):
    run = opened("training.start=student")
    make_start(run.folder, run.teachers())
    assert run.folder.start == STUDENT and not (run.folder.path / "start").exists()
    job = merge_job(run.folder.config, "merge", {}, run.folder.path / "t", run.folder.path)
    assert job.model_path == str(STUDENT)
    assert not notes(opened("training.start=student").written().folder)


def test_a_model_is_trained_as_it_is(opened, tmp_path):
    run = opened("training.start={kind: model, path: ./math_expert}")
    make_start(run.folder, run.teachers())
    assert run.folder.start == tmp_path / "math_expert" and not (run.folder.path / "start").exists()
    assert run.found.fingerprints[START].path == str(tmp_path / "math_expert")
    config = load_config(
        tmp_path / "config.yaml", ["training.start={kind: model, path: ./math_expert}"]
    ).config
    assert [t.places for t in named_things(config) if t.what == tmp_path / "math_expert"] == [
        ("domains.math.expert", "training.start")
    ]


# -------------------------------------------------------------------------------- the guard on the start


def referred(folder, monkeypatch, distance: float) -> None:
    """Step 1 of a merge whose students and references are so far apart, in both domains."""
    line = {f"teacher/{domain}/student_reference_distance": distance for domain in ("math", "code")}
    monkeypatch.setattr("trainer.run.train", lambda job, cluster, on_step, *_: on_step(1, {}))
    monkeypatch.setattr("trainer.export.export", lambda *_: None)
    monkeypatch.setattr(
        "merging.training.metrics.step_metrics", lambda step, raw, scales: {**line, "step": step}
    )
    monkeypatch.setattr("routing.trained_rows.check_trained", lambda *_: None)
    teachers = [
        SimpleNamespace(domain=d, folder=str(STUDENT), model_path=str(STUDENT), adapter_path=None)
        for d in ("math", "code")
    ]
    Distillation(folder, teachers, "merge", folder.train).run(lambda: None, folder.student)


def test_the_guard_compares_what_is_the_same_model(opened, tmp_path, monkeypatch):
    same = {"kind": "model", "path": str(tmp_path / "math_expert")}
    run = opened(f"training.start={same}", f"objective.reference={same}").written()
    assert not [note for note in run.found.notes if "largest_start_difference" in note]
    with refuses("domain 'math'", "step 1", "0.9 nats", error=ValueError):
        referred(run.folder, monkeypatch, 0.9)


def logp_of(folder, ids: list[int]):
    """Log-probabilities of every token but the first: the slow and obvious way."""
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        logits_TV = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0]
    return logits_TV.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]


def test_how_far_start_and_reference_are_apart_is_measured_on_the_starts_own_answers(opened, monkeypatch):
    from teachers.scoring.mixture import MixtureDecoder

    drawn = []
    decode = MixtureDecoder.decode

    def watched(self, names, join, prompts, *more):
        drawn.append((prompts, decode(self, names, join, prompts, *more)))
        return drawn[-1][1]

    monkeypatch.setattr(MixtureDecoder, "decode", watched)
    run = opened("training.start=task_arithmetic").written()
    prepare_start(run.folder, run.teachers(), SimpleNamespace(on_device=here))
    found = expected_distances(run.folder.path)
    assert found.keys() == {"math", "code"}
    for domain, (prompts, answers) in zip(found, drawn, strict=True):
        apart = [
            (logp_of(run.folder.start, ids) - logp_of(STUDENT, ids)).abs()[len(prompt) - 1 :]
            for prompt, answer in zip(prompts, answers, strict=True)
            if (ids := [*prompt, *answer.token_ids]) and answer.token_ids
        ]
        assert found[domain] == pytest.approx(torch.cat(apart).mean().item(), rel=1e-4)
        assert found[domain] > 1e-3
    prepare_start(run.folder, run.teachers(), SimpleNamespace(on_device=None))
    assert len(drawn) == 2, "measured once"


@pytest.mark.parametrize(("distance", "passes"), [(0.5, True), (0.9, True), (1.0, False), (0.0, False)])
def test_the_guard_expects_the_distance_that_was_measured(opened, monkeypatch, distance, passes):
    run = opened().written()
    assert not [note for note in run.found.notes if "largest_start_difference" in note]
    (run.folder.path / "start.json").write_text('{"math": 0.5, "code": 0.6}')
    if passes:
        referred(run.folder, monkeypatch, distance)
    else:
        with refuses("step 1", f"{distance:g} nats", "nats a token from the reference", error=ValueError):
            referred(run.folder, monkeypatch, distance)


def test_where_it_cannot_be_measured_that_is_said(opened, monkeypatch):
    run = opened("scorer.kind=pool").written()
    (note,) = [note for note in run.found.notes if "largest_start_difference" in note]
    says(note, "math", "code", "training.start: average", "scorer.kind: shared")
    prepare_start(run.folder, run.teachers(), SimpleNamespace(on_device=None))
    referred(run.folder, monkeypatch, 0.9)


def test_a_start_at_the_student_needs_no_measurement(opened):
    run = opened("training.start=student").written()
    prepare_start(run.folder, run.teachers(), SimpleNamespace(on_device=None))
    assert expected_distances(run.folder.path) == {}


# ------------------------------------------------------------------------------------ plan and report


def test_plan_and_disk_have_it(opened, tmp_path):
    run = opened()
    loaded = load_config(tmp_path / "config.yaml", ["training.start=average", "baselines=[]"])
    plan, without = (
        make_plan(each, tmp_path / "run")
        for each in (loaded, load_config(tmp_path / "config.yaml", ["baselines=[]"]))
    )
    assert {s.name: s.state for s in plan.stages}["start"] == "to do"
    assert "start" not in {s.name for s in without.stages}
    size = 4 * run.found.fingerprints["student"].parameters
    assert plan.disk["models"] - without.disk["models"] == size
    (held,) = plan.memory
    assert held.phases["start"]["models"] == 5 * size and "start" not in without.memory[0].phases
    make_start(run.folder, run.teachers())
    assert {s.name: s.state for s in make_plan(loaded, tmp_path / "run").stages}["start"] == "done"


def test_the_report_says_where_training_began(opened):
    run = opened("training.start={kind: ties, density: 0.4}", "baselines=[opd]").written()
    make_start(run.folder, run.teachers())
    told = ("ties", "density 0.4", "scale 1", "training.start", "`opd`")
    say_each(notes(run.folder), told)
    assert reference_text(run.folder.config) == "the base student"
    noisy_copy(run.folder.student, seed=9)
    found = provenance(run.folder, run.teachers())["start of the training"]
    says(found, fingerprint(run.folder.start).weights_sha256, "ties", "density 0.4")


def test_the_report_says_what_else_acted_on_the_update(opened):
    adds = "domains.code.objective={verifiable: {kind: add, weight: 0.5}}"
    own = ("objective={verifiable: gate, clip_log_ratio: 3}", adds, "training.samples_per_prompt=2")
    run = opened("training.start=student", *own).written()
    say_each(
        notes(run.folder),
        ("math", "reward agreed", "objective.verifiable"),
        ("code", "0.5 times", "objective.verifiable"),
        ("3 nats", "objective.clip_log_ratio"),
    )


def test_a_changed_start_is_another_merge(opened):
    opened()
    with refuses("training", "another merge"):
        opened("training.start=ties")


# ------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def refused(tmp_path):
    """The problems of a config of tiny models with these overrides."""
    config = config_dict(tmp_path)

    def refused(*overrides, change=lambda config: None):
        change(config)
        loaded = load_config(write_config(tmp_path, config), ["baselines=[]", *overrides])
        return problems_of(preflight, loaded, tmp_path / "run")

    return refused


@pytest.mark.parametrize("kind", ["average", "ties", "dare"])
def test_experts_of_other_shapes_cannot_be_merged_into_a_start(refused, tmp_path, kind):
    write_model(tmp_path / "math_expert", hidden=8)
    facts = (f"training.start: {kind}", "domains.math.expert", "other tensors", "`student`")
    say_each(refused(f"training.start={kind}"), facts)


def test_a_model_of_another_shape_or_tokenizer_cannot_be_the_start(refused, tmp_path):
    write_model(tmp_path / "other", hidden=8)
    start = "training.start={kind: model, path: ./other}"
    say_each(
        refused(start), ("training.start", str(tmp_path / "other"), "other tensors", "objective.reference")
    )
    write_model(tmp_path / "other", extra_tokens=("<x>",))
    assert "training.start" in refused(start)[0]
    assert "training.start" in refused("training.start={kind: model, path: ./nothing}")[0]


def test_teachers_without_a_folder_have_no_weights_to_begin_with(refused):
    def serve(config):
        config["domains"]["math"]["expert"] = {"kind": "served", "url": "http://127.0.0.1:9", "model": "m"}

    found = refused("training.start=average", change=serve)
    assert any("training.start: average" in problem and "path" in problem for problem in found), found


def test_an_unknown_start_is_refused_with_those_that_there_are(tmp_path):
    path = write_config(tmp_path, config_dict(tmp_path))
    with refuses("training.start", "average", "ties", "model", "student"):
        load_config(path, ["training.start=best"])
