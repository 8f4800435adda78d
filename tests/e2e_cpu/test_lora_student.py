"""A student that is a LoRA adapter, taught by adapters: killed in its merge, continued, polished, whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from teachers.models.adapters import fingerprint, is_adapter
from teachers.models.distance import weight_distance
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.paths import DEMO
from tests.helpers.processes import kill_hard, left_behind, protege, run_to_end, steps_in, wait_for
from tests.helpers.small_merge import small_config

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

START_SECONDS = 240


def lora_config(folder: Path) -> Path:
    """Nothing has to be built: the experts are adapters with small random weights."""
    config = small_config(folder, name="lora", baselines=[], tracking=[], objective={"reward_scale": 1.25})
    text = yaml.safe_load(config.read_text())
    for seed, domain in enumerate(text["domains"].values()):
        path = write_adapter(folder / f"adapter{seed}", seed, scale=0.03)
        domain["expert"] = {"kind": "adapter", "path": str(path)}
    adapter = {"lora_rank": 4, "lora_alpha": 12, "full_model": True, "learning_rate": 5e-3}
    text["training"] |= {"steps": 4, "save_every": 1, **adapter}
    text["polish"] = {"steps": 1, "prompts_per_step": 8, "samples_per_prompt": 4, "learning_rate": 1e-3}
    text["evaluation"]["greedy"] = False
    config.write_text(yaml.safe_dump(text, sort_keys=False))
    return config


def test_a_student_that_is_an_adapter_is_killed_continued_polished_and_reported(tmp_path):
    config, log, run = lora_config(tmp_path), tmp_path / "lora.log", tmp_path / "runs" / "lora"
    process = protege("merge", str(config), home=tmp_path, log=log)
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") >= 2, 2 * START_SECONDS, process, log)
    kill_hard(process)
    assert left_behind(tmp_path) == [] and not (run / "student").exists()
    assert run_to_end("merge", str(config), home=tmp_path, log=log, timeout=600) == 0, log.read_text()[-3000:]

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and len({line["step"] for line in lines}) == len(lines)
    for domain in ("math", "code"):  # a new adapter adds nothing
        assert lines[0][f"teacher/{domain}/student_reference_distance"] < 1e-4
        assert lines[-1][f"teacher/{domain}/student_reference_distance"] > 1e-3
        assert lines[-1][f"teacher/{domain}/importance_weight_mean"] == pytest.approx(1, abs=1e-2)
    for name in ("student", "distilled"):
        assert is_adapter(run / name)
        settings = fingerprint(run / name).settings
        assert (settings["r"], settings["lora_alpha"]) == (4, 12)
    student, distilled = (weights_of_adapter(run / name) for name in ("student", "distilled"))
    assert student.keys() == distilled.keys()
    moved = max(np.abs(student[name] - distilled[name]).max() for name in student)
    assert 0 < moved <= 1.1e-3, "the polish goes on from the distilled adapter, by one step of its rate"
    checkpoint = max((run / "train" / "checkpoints").glob("global_step_*"))
    (file,) = checkpoint.rglob("model_world_size_*.pt")
    assert file.stat().st_size < 0.5 * (DEMO / "student" / "model.safetensors").stat().st_size
    full = weight_distance(DEMO / "student", run / "student_full")
    own = weight_distance(DEMO / "student", run / "student")
    assert full["relative_l2"] == pytest.approx(own["relative_l2"], rel=1e-3) and own["relative_l2"] > 0

    report, manifest = (json.loads((run / name).read_text()) for name in ("report.json", "manifest.json"))
    assert report["models"]["student"]["benchmarks"]["math_heldout"]["n"] > 0
    assert "a LoRA adapter of rank 4 and alpha 12" in manifest["provenance"]["student weights"]
    assert "library_name: peft" in (run / "student" / "README.md").read_text()
    assert "library_name: transformers" in (run / "student_full" / "README.md").read_text()


def weights_of_adapter(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")
