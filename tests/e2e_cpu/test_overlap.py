"""Rollouts one step ahead, and validations between them, with the real command: killed and continued, and on
devices of their own, where each domain is asked in another mode."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.mode_template import student_with
from tests.helpers.model_copies import noisy_copy, weights_of
from tests.helpers.paths import DEMO
from tests.helpers.processes import kill_hard, left_behind, protege, run_to_end, steps_in, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS, SIZE = 8, 8
VALIDATION = {"validate_every": 4, "keep": "best", "validation_samples": 2, "validation_limit": 8}


MODES = {"math": {"system_prompt": "Sum."}, "code": {"chat_template": {"think": True}}}


def config_of(home: Path, name: str, hardware: dict, modes: dict[str, dict] | None = None) -> Path:
    """A merge of two given experts, whose rollouts verl also writes to files."""
    benchmark = {"kind": "math", "name": "math_heldout", "path": str(DEMO / "math.heldout.jsonl"), "limit": 4}
    domains = {
        domain: {
            "expert": {"kind": "model", "path": str(home / domain)},
            "prompts": {"kind": "file", "path": str(DEMO / f"{domain}.train.jsonl")},
            "reward": domain,
            "validation": {"kind": "file", "path": str(DEMO / f"{domain}.validation.jsonl")},
            **(modes or {}).get(domain, {}),
        }
        for domain in ("math", "code")
    }
    domains["math"]["benchmarks"] = [benchmark]
    config = {
        "name": name, "student": str(home / "student"), "domains": domains,
        "training": {"steps": STEPS, "prompts_per_step": SIZE, "learning_rate": 1e-3, "save_every": 3,
                     "max_prompt_tokens": 76, "max_response_tokens": 48, "seed": 0, "overlap": "one_step",
                     **VALIDATION},
        "hardware": {"device": "cpu", **hardware},
        "evaluation": {"samples_per_problem": 1, "greedy": False}, "baselines": [],
        "verl": {"trainer.rollout_data_dir": str(home / f"{name}.rollouts")},
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Working folder and registry of all runs here, with two experts."""
    folder = tmp_path_factory.mktemp("home")
    student = student_with(folder / "student")
    for seed, domain in enumerate(("math", "code")):
        noisy_copy(folder / domain, seed, source=student)
    return folder


def test_a_killed_merge_goes_on_with_the_rows_that_were_ahead_and_trains_each_once(home):
    config, log, run = config_of(home, "ahead", {}), home / "ahead.log", home / "runs" / "ahead"
    process = protege("merge", str(config), home=home, log=log)
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") >= 4, 240, process, log)
    kill_hard(process)
    assert left_behind(home) == []
    kept = int((run / "train" / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
    assert kept in (4, 6), "validated steps have a checkpoint, and so has every third"
    before = validations(run)

    assert run_to_end("merge", str(config), home=home, log=log, timeout=300) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    assert validations(run)[: len(before)] == before, "none is lost or made again"
    check_validations(run)
    check_rows(run, home / "ahead.rollouts")
    fresh = {1, kept + 1}  # of each attempt the first step, whose rows no step before it had sampled
    assert staleness(run) == {step: float(step not in fresh) for step in staleness(run)}
    notes = json.loads((run / "report.json").read_text())["notes"]
    assert any("one update before" in note for note in notes) and (run / "report.html").exists()


def test_devices_that_only_sample_get_the_weights_of_every_update(home):
    config, log = config_of(home, "apart", {"rollout_gpus": 1}, MODES), home / "apart.log"
    assert run_to_end("merge", str(config), home=home, log=log, timeout=400) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    run = home / "runs" / "apart"
    check_rows(run, home / "apart.rollouts")
    check_validations(run)
    assert staleness(run) == {step: float(step > 1) for step in range(1, STEPS + 1)}
    lines = steps_of(run)
    for domain in ("math", "code"):
        weight = f"teacher/{domain}/importance_weight_mean"
        # the engine has read the same weights as the trainer at first, and older ones later
        assert lines[0][weight] == pytest.approx(1, abs=1e-3)
        assert any(abs(line[weight] - 1) > 1e-3 for line in lines[1:])
    check_modes(run, home / "apart.rollouts")


def check_modes(run: Path, rollouts: Path) -> None:
    """Rollouts, validations and answers to the benchmark were asked in them, and report and card say so."""
    rows = [json.loads(line) for file in rollouts.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert Counter(row["input"][: len("[Sum.]")] == "[Sum.]" for row in rows) == {True: 32, False: 32}
    assert sum(row["input"].startswith("T Code: ") for row in rows) == 32
    for model in ("student", "base", "math-teacher"):
        lines = (run / "samples" / model / "math_heldout.jsonl").read_text().splitlines()
        assert {json.loads(line)["prompt"][0]["content"] for line in lines} == {"Sum."}
    provenance = json.loads((run / "manifest.json").read_text())["provenance"]
    assert provenance["mode of math"] == 'system_prompt "Sum."'
    assert provenance["mode of code"] == "chat_template {think: true}"
    assert "How to ask it" in (run / "student" / "README.md").read_text()


def validations(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "train" / "validation.jsonl").read_text().splitlines()]


def check_validations(run: Path) -> None:
    """Of every fourth step, in the metrics with their n; the student has the best one's weights."""
    assert [one["step"] for one in validations(run)] == [0, 4, STEPS]
    found = {int(line["step"]): line for line in metrics(run) if "validation/accuracy" in line}
    assert list(found) == [0, 4, STEPS]
    for line, (domain, decoding, answers) in product(
        found.values(), [("math", "greedy", 8), ("code", "sampled", 16)]
    ):
        key = f"validation/{domain}/{decoding}"
        assert 0 <= line[key] <= 1 and (line[f"{key}/n"], line[f"{key}/answers"]) == (8, answers)
    best = max(found, key=lambda step: (found[step]["validation/accuracy"], -step))
    assert [path.name for path in (run / "train" / "best").glob("*")] == [f"global_step_{best}"] * bool(best)
    expected = weights_of(DEMO / "student") if best == 0 else checkpoint_weights(run, best)
    exported = weights_of(run / "student")
    assert all(np.array_equal(exported[name], value) for name, value in expected.items() if name in exported)


def checkpoint_weights(run: Path, step: int) -> dict:
    import torch

    (file,) = (run / "train" / "best" / f"global_step_{step}" / "actor").glob("model_*.pt")
    found = torch.load(file, map_location="cpu", weights_only=False)
    return {name: getattr(value, "_local_tensor", value).numpy() for name, value in found.items()}


def check_rows(run: Path, rollouts: Path) -> None:
    """Every step has trained on the rows that were planned for it: none is left out, none comes twice."""
    import pyarrow.parquet
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    domains = yaml.safe_load((run / "config.resolved.yaml").read_text())["domains"]

    def shown(row: dict) -> str:
        how = {
            "add_generation_prompt": True,
            "return_dict": False,
            **domains[row["teacher"]]["chat_template"],
        }
        return tokenizer.decode(tokenizer.apply_chat_template(row["prompt"], **how), skip_special_tokens=True)

    planned = pyarrow.parquet.read_table(run / "prompts" / "train.parquet").to_pylist()
    for step in range(1, STEPS + 1):
        lines = (rollouts / f"{step}.jsonl").read_text().splitlines()
        own = planned[(step - 1) * SIZE : step * SIZE]
        assert Counter(json.loads(line)["input"] for line in lines) == Counter(map(shown, own)), step
    for line in steps_of(run):
        assert all(line[f"teacher/{domain}/sequences"] == SIZE / 2 for domain in ("math", "code"))


def staleness(run: Path) -> dict[int, float]:
    """Updates between the weights that sampled a step's rows and those that it updated."""
    assert all(line["staleness_mean"] == line["staleness_max"] for line in steps_of(run))
    return {int(line["step"]): line["staleness_mean"] for line in steps_of(run)}


def steps_of(run: Path) -> list[dict[str, float]]:
    return [line for line in metrics(run) if line["step"]]  # 0 is a validation alone


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
