"""Settings of verl's in a config: each training's are checked, refused together, and passed on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import ConfigError
from configs.load import load_config
from merging.checks.found import Preflight
from merging.checks.preflight import preflight
from merging.checks.verl_settings import verl_settings
from merging.exopd.job import merge_job
from merging.reports.reporting import provenance
from tests.helpers.tiny_model import config_dict, write_config

BETAS, CLIP = "actor_rollout_ref.actor.optim.betas", "actor_rollout_ref.actor.clip_ratio_high"
RL = {"kind": "rl", "steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2}


@pytest.fixture
def load(tmp_path):
    """A config with an expert of RL and both baselines that have settings of their own."""
    given = config_dict(tmp_path)
    given["domains"]["math"]["expert"] = dict(RL)
    given["domains"]["math"]["benchmarks"] = []
    given["baselines"] = [{"kind": "grpo", "samples_per_prompt": 2}, {"kind": "sft"}]

    def load(*overrides: str):
        return load_config(write_config(tmp_path, given), overrides)

    return load


def test_every_place_is_checked_and_every_problem_named(load, tmp_path):
    loaded = load(
        "verl={actor_rollout_ref.actor.optim.lr: 1, trainer.sav_freq: 1}",
        "domains.math.expert.verl.actor_rollout_ref.rollout.n=3",
        "baselines.0.verl={critic.enable: true}",
        "baselines.1.verl={actor_rollout_ref.actor.optim.betas: [0, 0]}",
    )
    with pytest.raises(ConfigError) as caught:
        preflight(loaded, tmp_path / "run")
    assert list(caught.value.problems) == [
        "verl: actor_rollout_ref.actor.optim.lr: set by training.learning_rate; change that instead",
        "verl: trainer.sav_freq: verl 0.9.1 knows no such key; did you mean trainer.save_freq?",
        "domains.math.expert.verl: actor_rollout_ref.rollout.n: set by domains.math.expert.samples_per_prompt"
        "; change that instead",
        "baselines.grpo.verl: critic.enable: Protege sets it: no critic is trained",
        "baselines.sft.verl: actor_rollout_ref.actor.optim.betas: verl 0.9.1 knows no such key; did you mean "
        "optim.betas?",
    ]


def test_good_settings_pass_and_reach_each_training(load):
    config = load(
        f"verl={{{BETAS}: [0.9, 0.95]}}",
        f"domains.math.expert.verl={{{CLIP}: 0.28}}",
        f"baselines.0.verl={{{BETAS}: [0, 0]}}",
        "baselines.1.verl={optim.betas: [0.5, 0.5]}",
    ).config
    verl_settings(Preflight(config=config, run_dir=Path("/run")))
    grpo, sft = config.trained_baselines()
    assert config.verl_settings() == {BETAS: [0.9, 0.95]}
    assert config.verl_settings(config.domains["math"].expert) == {BETAS: [0.9, 0.95], CLIP: 0.28}
    assert config.verl_settings(grpo) == {BETAS: [0, 0]}
    assert config.verl_settings(sft) == {"optim.betas": [0.5, 0.5]}
    job = merge_job(config, "merge", {"math": "/m", "code": "/c"}, Path("/rows"), Path("/run"))
    assert job.verl_settings == {BETAS: [0.9, 0.95]}


def test_without_settings_verl_is_not_asked(load, monkeypatch):
    from trainer.settings import known

    monkeypatch.setattr(known, "default_tree", lambda _: pytest.fail("composed"))
    verl_settings(Preflight(config=load().config, run_dir=Path("/run")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{a.b: 1, a: {b: 2}}", "'a.b' is given twice, in two spellings"),
        ("{a.b: 1, a.b.c: 2}", "'a.b' is given a value, and 'a.b.c' stands below it"),
    ],
)
def test_one_key_in_two_spellings_is_refused(load, settings, message):
    with pytest.raises(ConfigError, match=message):
        load(f"verl={settings}")


def test_the_report_names_them(load, tmp_path):
    config = load(
        f"verl={{{BETAS}: [0.9, 0.95]}}",
        f"domains.math.expert.verl={{{CLIP}: 0.28}}",
        "baselines.1.verl={optim.betas: [0.5, 0.5]}",
    ).config
    config = config.model_copy(update={"student": str(tmp_path / "student")})
    folder = SimpleNamespace(config=config, student=tmp_path / "student", counts=dict)
    found = provenance(folder, [])
    assert found["verl settings"] == f"{BETAS}=[0.9, 0.95]"
    assert found["verl settings of expert math"] == f"{BETAS}=[0.9, 0.95], {CLIP}=0.28"
    assert found["verl settings of baseline sft"] == "optim.betas=[0.5, 0.5]"
    plain = SimpleNamespace(config=load().config, student=tmp_path / "student", counts=dict)
    assert not any(name.startswith("verl settings") for name in provenance(plain, []))
