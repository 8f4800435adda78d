"""Every config in configs/runs: it loads, compiles to a merge with the right references, passes preflight."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from configs.load import load_config
from merging.checks import machine
from merging.checks.preflight import preflight
from merging.exopd.job import merge_job
from teachers import demo_student
from tests.helpers.hub_server import HUB_CACHE, put_in_cache
from tests.helpers.messages import refuses
from tests.helpers.paths import ROOT, STUDENT
from tests.helpers.prompt_sources import paper_row, write_parquet_rows
from tests.helpers.tiny_model import write_model

RUNS = {path.stem: path for path in sorted((ROOT / "configs" / "runs").glob("*.yaml"))}
BASE = str(STUDENT)
MADE = str(ROOT / ".protege")
"""Where a config's head says to put the models that are made first."""

EIGHT = ("add_plain", "add_carry", "multiply", "sum", "extreme", "first", "list", "ordered")

REFERENCES = {
    "eight_domains": dict.fromkeys(EIGHT, BASE),
    "lora_experts": {"math": BASE, "code": BASE},
    "lora_student": {"math": BASE, "code": BASE},
    "paper": {"math": "Qwen/Qwen3-4B", "code": "Qwen/Qwen3-4B"},
    "polished": {"math": None, "code": None},
    "quickstart": {"math": BASE, "code": BASE},
    "reward_correction": {"math": f"{MADE}/demo_seed1", "code": BASE},
    "smollm2": {"add": f"{MADE}/smollm2", "multiply": f"{MADE}/smollm2"},
    "strong_to_weak": {"math": BASE, "code": f"{MADE}/demo_large"},
}
"""The model that B is read from, by config and domain; None at lambda 1, where none is."""

BASES = {
    "eight_domains": [None] * 8,
    "lora_experts": [None, None],
    "lora_student": [None, None],
    "paper": [None, None],
    "polished": [None, None],
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
    read = {domain: scorer["models"].get(key) for domain, key in scorer["references"].items()}
    assert read == REFERENCES[name]
    held = {key for domain, key in scorer["references"].items() if REFERENCES[name][domain]}
    assert scorer["models"].keys() == {*held, *teachers}
    assert job.model_path == config.student  # a start that is merged is made by the run


@pytest.mark.parametrize("name", RUNS)
def test_models_that_are_made_first_are_told_in_the_head(name):
    config, text = load_config(RUNS[name]).config, RUNS[name].read_text(encoding="utf-8")
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    models = {config.student, *filter(None, [*REFERENCES[name].values(), *BASES[name]])}
    for model in (Path(model) for model in models if model.startswith(MADE)):
        assert f"--out .protege/{model.name}" in head


# ---------------------------------------------------------------------------------------- preflight
# It reads no weights, so models that a config wants made or fetched first have stand-ins, and no test skips.

NO_THINKING = (
    "{{ '' if enable_thinking is false else raise_exception('it thinks') }}{{ messages[0]['content'] }}"
)
"""Refuses a prompt that is not written as the paper has it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The bases of the demo, hardly trained, as their commands make them."""
    folder = tmp_path_factory.mktemp("made")
    large = demo_student.build(folder / "large", steps=1, size=demo_student.SIZES["large"])
    return {"demo_large": large, "demo_seed1": demo_student.build(folder / "seed1", seed=1, steps=1)}


def passes(monkeypatch, name, run_dir, *overrides):
    """The config's preflight, on a machine that has its GPUs."""
    loaded = load_config(RUNS[name], overrides)
    monkeypatch.setattr(machine, "visible_gpus", lambda: loaded.config.hardware.gpus)
    found = preflight(loaded, run_dir)
    assert found.counts().keys() == loaded.config.domains.keys() == REFERENCES[name].keys()
    return loaded, found


@pytest.mark.parametrize("name", ["eight_domains", "lora_experts", "lora_student", "polished", "quickstart"])
def test_it_passes_preflight(name, tmp_path, monkeypatch):
    passes(monkeypatch, name, tmp_path / "run")


@pytest.mark.parametrize(("name", "own"), [("strong_to_weak", "code"), ("reward_correction", "math")])
def test_it_passes_preflight_with_the_base_that_is_made_first(name, own, made, tmp_path, monkeypatch):
    (wanted,) = filter(None, BASES[name])
    base = made[Path(wanted).name]
    given = f"domains.{own}.expert.base={base}"
    loaded, found = passes(monkeypatch, name, tmp_path / "run", given)
    assert found.with_folders(loaded.config).reference_of(own) == str(base)
    sizes = [found.fingerprints[key].parameters for key in ("student", f"base of {own}")]
    assert sizes[1] / sizes[0] == pytest.approx(1 if name == "reward_correction" else 2.2, abs=0.2)


def test_the_pretrained_models_config_passes_preflight(tmp_path, monkeypatch):
    """Whether the real one's tokens fit is asked where it is made: tests/unit/teachers/test_smollm2.py."""
    student = write_model(tmp_path / "student", context=8192)
    passes(monkeypatch, "smollm2", tmp_path / "run", f"student={student}")


def test_the_papers_config_passes_preflight(tmp_path, monkeypatch):
    """With models, prompts and benchmarks in place of the hub's: all else is as it is shipped."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    models = {
        name: write_model(tmp_path / name, value=value, context=40960, template=NO_THINKING)
        for name, value in (("student", 0.5), ("math", 0.6), ("code", 0.7))
    }
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / HUB_CACHE))
    rows = [paper_row(i, teacher) for i, teacher in enumerate(("math", "code") * 4)]
    content = write_parquet_rows(tmp_path, rows).read_bytes()
    prompts = load_config(RUNS["paper"]).config.prompts
    put_in_cache(tmp_path / HUB_CACHE, "datasets", prompts.path, {prompts.data_files: content})
    opened = []
    problems = [SimpleNamespace(id="p", messages=({"role": "user", "content": "none"},))]
    task = SimpleNamespace(problems=problems, asked_in=lambda mode: SimpleNamespace(problems=problems))
    monkeypatch.setattr("eval.benchmarks.open_benchmark", lambda config: opened.append(config.name) or task)
    overrides = [f"student={models['student']}"]
    overrides += [f"domains.{domain}.expert.path={models[domain]}" for domain in ("math", "code")]
    loaded, found = passes(monkeypatch, "paper", tmp_path / "run", *overrides)
    assert found.counts() == {"math": 4, "code": 4}
    assert sorted(opened) == sorted(b.name for d in loaded.config.domains.values() for b in d.benchmarks)
    with refuses("it thinks"):
        passes(monkeypatch, "paper", tmp_path / "run", *overrides, "chat_template={}")
