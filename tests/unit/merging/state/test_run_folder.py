"""A run's folder: which config continues it, which is refused, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from common.errors import ConfigError
from configs.load import load_config
from merging.state.run_folder import RESOLVED, RunFolder
from routing.kept import Dropped
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT
from tests.helpers.tiny_model import config_dict, write_config

CHAT = ({"role": "user", "content": "x"},)

FOUND = SimpleNamespace(with_folders=lambda config: config)
"""Of a preflight only this is needed here."""


@pytest.fixture
def given(tmp_path):
    return config_dict(tmp_path)


@pytest.fixture
def open_run(tmp_path):
    """Opens tmp_path/run for a config and overrides."""

    def open_run(config, *overrides):
        return RunFolder.open(tmp_path / "run", load_config(write_config(tmp_path, config), overrides), FOUND)

    return open_run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_config_continues(open_run, given, tmp_path):
    first = open_run(given)
    before = contents(tmp_path / "run")
    again = open_run(given)
    assert again.config == first.config and again.path == tmp_path / "run"
    assert contents(tmp_path / "run") == before
    assert set(before) == {"config.yaml", RESOLVED}


@pytest.mark.parametrize(
    "override, section",
    [
        ("training.learning_rate=2e-5", "training"),
        ("training.steps=3", "training"),
        ("training.seed=1", "training"),
        ("objective.reward_scale=1.5", "objective"),
        ("domains.math.reward=math", "domains"),
        ("domains.math.objective={reward_scale: 2}", "domains"),
        ("domains.math.prompts.limit=3", "domains"),
        ("student=./math_expert", "student"),
        ("chat_template={enable_thinking: false}", "chat_template"),
        ("domains.math.chat_template={enable_thinking: true}", "domains"),
        ("domains.code.system_prompt=Be short.", "domains"),
        ("mixing={kind: temperature, temperature: 2}", "mixing"),
        ("mixing={kind: balanced, order: curriculum}", "mixing"),
        ("conflicts=drop", "conflicts"),
        ("overlap.ngram=8", "overlap"),
        ("training.too_long=drop", "training"),
        ("verl={actor_rollout_ref.actor.optim.betas: [0.9, 0.95]}", "verl"),
        ("hardware={device: cuda, rollout_quantization: fp8}", "hardware"),
    ],
)
def test_another_merge_is_refused_by_section_and_changes_nothing(
    open_run, given, tmp_path, override, section
):
    open_run(given)
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        open_run(given, override)
    assert f"differs in: {section})" in str(caught.value)
    assert str(tmp_path / "run") in str(caught.value) and "--run-dir" in str(caught.value)
    assert contents(tmp_path / "run") == before


def test_all_differing_sections_are_named(open_run, given):
    open_run(given)
    with refuses("differs in", "objective, training"):
        open_run(given, "training.steps=3", "objective.reward_scale=1")


def test_a_domain_more_or_less_is_refused(open_run, given):
    open_run(given)
    fewer = {**given, "domains": {"math": given["domains"]["math"]}}
    with pytest.raises(ConfigError, match="differs in: domains"):
        open_run(fewer)


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.samples_per_problem=2",
        "baselines=[]",
        "baselines=[{kind: ties, density: 0.5}]",
        "hardware.tokens_per_device=64",
        "hardware={device: cpu, sequence_parallel: 1, rollout_sequences: 3, checkpoints: weights}",
        "verl={actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes: 64}",
        "registry=./elsewhere",
        "domains.math.benchmarks=[{kind: math, name: m, path: math.jsonl}]",
    ],
)
def test_what_no_trained_weight_depends_on_may_change(open_run, given, tmp_path, override):
    open_run(given)
    changed = open_run(given, override)
    stored = load_config(tmp_path / "run" / RESOLVED).config
    assert stored == changed.config  # the newest is kept
    open_run(given)


def test_the_margin_is_declared_before_the_results(open_run, given, tmp_path):
    open_run(given)
    with refuses(tmp_path / "run", "differs in", "evaluation.margin", "declared as 2", "now 5"):
        open_run(given, "evaluation.margin=5", "evaluation.samples_per_problem=2")
    stored = tmp_path / "run" / RESOLVED
    content = yaml.safe_load(stored.read_text())
    del content["evaluation"]["margin"]  # of an earlier version: the default was in force
    stored.write_text(yaml.safe_dump(content, sort_keys=False))
    open_run(given, "evaluation.samples_per_problem=2")
    with refuses("evaluation.margin", "declared as 2", "now 1.5"):
        open_run(given, "evaluation.margin=1.5")


def test_an_experts_settings_of_verls_may_change_if_no_weight_depends_on_them(open_run, given):
    expert = {"kind": "rl", "steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2}
    given["domains"]["math"]["expert"] = expert
    open_run(given)
    place = "domains.math.expert.verl"
    open_run(given, f"{place}={{actor_rollout_ref.actor.profiler.enable: true}}")
    with pytest.raises(ConfigError, match="differs in: domains"):
        open_run(given, f"{place}={{actor_rollout_ref.actor.clip_ratio_high: 0.28}}")


def test_a_changed_benchmark_hides_no_other_change_of_its_domain(open_run, given):
    open_run(given)
    with pytest.raises(ConfigError, match="differs in: domains"):
        open_run(given, "domains.math.benchmarks=[aime24]", "domains.math.reward=math")


def test_a_folder_that_holds_baselines_as_names_is_continued(open_run, given, tmp_path):
    folder = open_run(given, "baselines=[opd, average]")
    stored = tmp_path / "run" / RESOLVED
    content = yaml.safe_load(stored.read_text())
    assert content["baselines"] == [{"kind": "opd"}, {"kind": "average"}]
    stored.write_text(yaml.safe_dump({**content, "baselines": ["opd", "average"]}, sort_keys=False))
    assert load_config(stored).config == folder.config
    assert open_run(given, "baselines=[opd, average]").config == folder.config


def test_a_folder_from_before_there_were_modes_is_continued(open_run, given, tmp_path):
    folder = open_run(given)
    stored = tmp_path / "run" / RESOLVED
    content = yaml.safe_load(stored.read_text())
    for domain in content["domains"].values():
        assert (domain.pop("chat_template"), domain.pop("system_prompt")) == ({}, None)
    stored.write_text(yaml.safe_dump(content, sort_keys=False))
    assert open_run(given).config == folder.config


def test_the_users_file_is_kept_verbatim(tmp_path, given):
    path = write_config(tmp_path, given)
    path.write_text("# my notes\n" + path.read_text())
    RunFolder.open(tmp_path / "run", load_config(path), FOUND)
    assert (tmp_path / "run" / "config.yaml").read_text() == path.read_text()


def test_overrides_are_noted_below_it(tmp_path, given):
    path = write_config(tmp_path, given)
    loaded = load_config(path, ["training.steps=3", "baselines=[]"])
    RunFolder.open(tmp_path / "run", loaded, FOUND)
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert text == path.read_text() + "\n# laid over by --set:\n#   training.steps=3\n#   baselines=[]\n"
    assert yaml.safe_load(text) == given  # comments change nothing


def test_the_resolved_config_is_the_same_config(open_run, given, tmp_path):
    overrides = (
        "training.learning_rate=1e-6",
        "training.weight_decay=0",
        "objective.reward_scale=1",
        "chat_template={enable_thinking: false, level: 2, style: 'on'}",
        "domains.code.objective={reward_scale: 1.5}",
        "domains.math.benchmarks=[aime24, {kind: math, name: m, path: math.jsonl, suffix: \"\\nin a box\"}]",
    )  # fmt: skip
    folder = open_run(given, *overrides)
    again = load_config(tmp_path / "run" / RESOLVED)
    assert again.config == folder.config
    assert isinstance(again.config.training.weight_decay, float)
    assert again.config.student == str(tmp_path / "student")  # paths no longer depend on the folder


def test_every_shipped_run_survives_the_round_trip(tmp_path):
    for path in sorted((ROOT / "configs" / "runs").glob("*.yaml")):
        loaded = load_config(path)
        RunFolder.open(tmp_path / path.stem, loaded, FOUND)
        assert load_config(tmp_path / path.stem / RESOLVED).config == loaded.config


def test_opening_a_run_from_its_resolved_config_keeps_the_users_file(open_run, given, tmp_path):
    open_run(given, "training.steps=3")
    before = (tmp_path / "run" / "config.yaml").read_text()
    RunFolder.open(tmp_path / "run", load_config(tmp_path / "run" / RESOLVED), FOUND)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_models_in_order_with_roles_and_places(open_run, given, tmp_path):
    folder = open_run(given, "baselines=[opd, average, {kind: ties, density: 0.5}]")
    teachers = [SimpleNamespace(domain=domain, model_path=f"/models/{domain}") for domain in ("math", "code")]
    run = tmp_path / "run"
    assert [(m.name, str(m.path), m.role, m.domain) for m in folder.models(teachers)] == [
        ("base", str(tmp_path / "student"), "base", None),
        ("math-teacher", "/models/math", "teacher", "math"),
        ("code-teacher", "/models/code", "teacher", "code"),
        ("student", str(run / "student"), "student", None),
        ("opd", str(run / "baselines" / "opd"), "baseline", None),
        ("average", str(run / "baselines" / "average"), "baseline", None),
        ("ties", str(run / "baselines" / "ties"), "baseline", None),
    ]


ROUTER = {"kind": "rules", "unlabelled": 2, "matches": [{"rule": "a", "prompts": 1}], "unmatched": 1}


def test_counts_and_lists_are_kept(open_run, given, tmp_path):
    folder = open_run(given)

    def routed(answer):
        return [
            RoutedPrompt(
                Prompt(f"{domain}{i}", CHAT, answer if i else "1", None, "f.jsonl", i), domain, "test"
            )
            for domain in ("math", "code")
            for i in range(3)
        ]

    def found(answer):
        items = routed(answer)
        dropped = [Dropped(items[0].prompt, "math", "too long", "99 tokens")]
        return SimpleNamespace(
            routed=items, dropped=dropped, conflicts={}, overlaps=[], overlap_action="warn", notes=["a note"],
            counts=lambda: {"math": 3, "code": 3}, router=ROUTER,
        )  # fmt: skip

    rows = routed("1")
    folder.write_counts([rows[0], rows[3]] * 4, found("1"))
    assert folder.counts() == {
        "prompts": {"math": 3, "code": 3},
        "rows": {"math": 4, "code": 4},
        "shares": {"math": 0.5, "code": 0.5},
        "dropped": {"too long": {"math": 1}},
        "conflicts": {},
        "overlaps": {},
        "notes": ["a note"],
        "overlap_notes": [],
        "rewards": {"math": "exact", "code": "exact"},
        "all_answered": True,
    }
    (line,) = (folder.path / "prompts/dropped.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "reason": "too long", "domain": "math", "source": "f.jsonl", "row": 0, "id": "math0",
        "detail": "99 tokens",
    }  # fmt: skip
    assert (folder.path / "prompts/overlaps.jsonl").read_text() == ""
    assert folder.router() == ROUTER
    folder.write_counts([*rows[:4], routed(None)[1], *rows[3:6]], found(None))
    assert folder.counts()["all_answered"] is False
    with pytest.raises(AssertionError, match=r"planned .*'code': 4.*, written .*'math': 8"):
        folder.write_counts([rows[0]] * 8, found("1"))


def test_benchmarks_may_not_change_where_they_decide_what_is_trained_on(open_run, given):
    benchmark = "domains.math.benchmarks=[{kind: math, name: sums, path: sums.jsonl}]"
    open_run(given, "overlap.action=drop")
    with pytest.raises(ConfigError, match=r"differs in: domains\)"):
        open_run(given, "overlap.action=drop", benchmark)


def test_metrics_of_merge_and_baseline_lie_apart(open_run, given, tmp_path):
    folder = open_run(given)
    assert folder.read_metrics("merge") == []
    folder.write_metrics("merge", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    folder.write_metrics("opd", [{"step": 1, "loss": 3.0}])
    assert folder.read_metrics("merge") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert folder.read_metrics("opd") == [{"step": 1, "loss": 3.0}]
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
    assert (tmp_path / "run" / "metrics.opd.jsonl").exists()
