"""A run's folder: which config continues it, which is refused, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from configs.load import ConfigError, load_config
from merging.run_folder import RESOLVED, RunFolder
from routing.routers import RoutedPrompt
from routing.sources import Prompt
from tests.unit.tiny_model import config_dict, write_config

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
        ("routing.balance=false", "routing"),
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
    with pytest.raises(ConfigError, match=r"differs in: objective, training\)"):
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
    for path in sorted((Path(__file__).resolve().parents[2] / "configs" / "runs").glob("*.yaml")):
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


def test_counts_are_kept(open_run, given):
    folder = open_run(given)

    def rows(*answers):
        message = ({"role": "user", "content": "x"},)
        prompts = [Prompt("id", message, answer, None, "f.jsonl", 1) for answer in answers]
        domains = ("math", "math", "code")
        return [RoutedPrompt(p, d, "test") for p, d in zip(prompts, domains, strict=True)]

    folder.write_counts(
        rows("1", 0, ""), SimpleNamespace(counts=lambda: {"math": 6, "code": 5}, duplicates=4)
    )
    assert folder.counts() == {
        "prompts": {"math": 6, "code": 5},
        "rows": {"math": 2, "code": 1},
        "duplicates_dropped": 4,
        "all_answered": True,
    }
    folder.write_counts(rows("1", None, "2"), SimpleNamespace(counts=dict, duplicates=0))
    assert folder.counts()["all_answered"] is False


def test_metrics_of_merge_and_baseline_lie_apart(open_run, given, tmp_path):
    folder = open_run(given)
    assert folder.read_metrics("merge") == []
    folder.write_metrics("merge", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    folder.write_metrics("opd", [{"step": 1, "loss": 3.0}])
    assert folder.read_metrics("merge") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert folder.read_metrics("opd") == [{"step": 1, "loss": 3.0}]
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
    assert (tmp_path / "run" / "metrics.opd.jsonl").exists()
