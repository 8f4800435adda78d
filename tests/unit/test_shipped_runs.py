"""Every config in configs/runs: it loads, compiles to a merge with the right references, passes preflight."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load_config
from merging import preflight as pf
from merging.exopd import merge_job
from teachers import demo_student

ROOT = Path(__file__).resolve().parents[2]
RUNS = {path.stem: path for path in sorted((ROOT / "configs" / "runs").glob("*.yaml"))}
STUDENT = str(ROOT / "configs" / "demo" / "student")
MADE = str(ROOT / ".protege")
"""Where a config's head says to put the models that are made first."""

EIGHT = ("add_plain", "add_carry", "multiply", "sum", "extreme", "first", "list", "ordered")

REFERENCES = {
    "eight_domains": dict.fromkeys(EIGHT, STUDENT),
    "lora_experts": {"math": STUDENT, "code": STUDENT},
    "paper": {"math": "Qwen/Qwen3-4B", "code": "Qwen/Qwen3-4B"},
    "quickstart": {"math": STUDENT, "code": STUDENT},
    "reward_correction": {"math": f"{MADE}/demo_seed1", "code": STUDENT},
    "smollm2": {"add": f"{MADE}/smollm2", "multiply": f"{MADE}/smollm2"},
    "strong_to_weak": {"math": STUDENT, "code": f"{MADE}/demo_large"},
}
"""The model that B is read from, by config and domain."""

BASES = {
    "eight_domains": [None] * 8,
    "lora_experts": [None, None],
    "paper": [None, None],
    "quickstart": [None, None],
    "reward_correction": [f"{MADE}/demo_seed1", None],
    "smollm2": [None, None],
    "strong_to_weak": [None, f"{MADE}/demo_large"],
}
"""What the experts are built from, in the order of the domains; None: the student."""


def test_every_shipped_config_is_listed():
    assert RUNS.keys() == REFERENCES.keys() == BASES.keys()


@pytest.mark.parametrize("name", RUNS)
def test_it_compiles_to_a_merge_with_the_right_references(name, tmp_path):
    config = load_config(RUNS[name]).config
    assert config.name == name
    assert [domain.expert.base for domain in config.domains.values()] == BASES[name]
    teachers = {domain: f"/experts/{domain}" for domain in config.domains}
    job = merge_job(config, "merge", teachers, tmp_path / "train.parquet", tmp_path / "train")
    scorer = job.verl_overrides["protege.scorer"]
    read = {domain: scorer["models"][key] for domain, key in scorer["references"].items()}
    assert read == REFERENCES[name]
    assert scorer["models"].keys() == {*scorer["references"].values(), *teachers}
    assert job.model_path == config.student


@pytest.mark.parametrize("name", RUNS)
def test_models_that_are_made_first_are_told_in_the_head(name):
    config, text = load_config(RUNS[name]).config, RUNS[name].read_text(encoding="utf-8")
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    models = {config.student, *REFERENCES[name].values(), *filter(None, BASES[name])}
    for model in (Path(model) for model in models if model.startswith(MADE)):
        assert f"--out .protege/{model.name}" in head


@pytest.mark.parametrize("name", RUNS)
def test_it_passes_preflight(name, tmp_path, monkeypatch):
    loaded = load_config(RUNS[name])
    models = {loaded.config.student, *filter(None, BASES[name])}
    absent = sorted(model for model in models if not Path(model).exists())
    if absent:
        pytest.skip(f"{', '.join(absent)} is not made (the head of {RUNS[name].name} tells how)")
    monkeypatch.setattr(pf, "visible_gpus", lambda: loaded.config.hardware.gpus)
    assert pf.preflight(loaded, tmp_path / "run").counts().keys() == loaded.config.domains.keys()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The bases that the demo's configs want, hardly trained: preflight reads no weights."""
    folder = tmp_path_factory.mktemp("made")
    large = demo_student.build(folder / "large", steps=1, size=demo_student.SIZES["large"])
    return {"demo_large": large, "demo_seed1": demo_student.build(folder / "seed1", seed=1, steps=1)}


@pytest.mark.parametrize("name", ["strong_to_weak", "reward_correction"])
def test_the_demos_bases_fit_the_student(name, made, tmp_path):
    overrides = [
        f"domains.{domain}.expert.base={made[Path(base).name]}"
        for domain, base in zip(REFERENCES[name], BASES[name], strict=True)
        if base is not None
    ]
    loaded = load_config(RUNS[name], overrides)
    found = pf.preflight(loaded, tmp_path / "run")
    (own,) = [domain for domain, base in zip(REFERENCES[name], BASES[name], strict=True) if base]
    assert found.with_folders(loaded.config).reference_of(own) in map(str, made.values())
    sizes = [found.fingerprints[key].parameters for key in ("student", f"base of {own}")]
    assert sizes[1] / sizes[0] == pytest.approx(1 if name == "reward_correction" else 2.2, abs=0.2)
