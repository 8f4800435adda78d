"""The real command with `scorer.kind: sharded` on two devices, one teacher of another architecture.

`tests/unit/teachers/scoring/sharded` compares the scores themselves with those of the shared scorer.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from tests.helpers.model_copies import STUDENT, noisy_copy, weights_of
from tests.helpers.other_models import qwen3_copy
from tests.helpers.paths import ROOT
from tests.helpers.processes import left_behind, run_to_end

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DEMO = ROOT / "configs" / "demo"
PROMPTS, SAMPLES, STEPS = 8, 2, 2


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    noisy_copy(home / "math-expert", seed=1)
    # vLLM, which answers the benchmark with it, has no attention on a CPU for heads of any width
    qwen3_copy(home / "code-expert", hidden_size=48, head_dim=32, num_hidden_layers=5)
    return home


def config(home: Path, name: str, **experts: Path) -> Path:
    domains: dict[str, Any] = {
        domain: {
            "expert": {"kind": "model", "path": str(experts.get(domain, home / f"{domain}-expert"))},
            "prompts": {"kind": "file", "path": str(DEMO / f"{domain}.train.jsonl")},
            "reward": domain,
        }
        for domain in ("math", "code")
    }
    held_out = str(DEMO / "math.heldout.jsonl")
    domains["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": held_out, "limit": 4}]
    values = {
        "name": name, "student": str(STUDENT), "domains": domains,
        "training": {"steps": STEPS, "prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES,
                     "learning_rate": 1e-3, "max_prompt_tokens": 72, "max_response_tokens": 48},
        "hardware": {"device": "cpu", "gpus": 2}, "scorer": {"kind": "sharded"},
        "evaluation": {"samples_per_problem": 1, "greedy": False}, "baselines": [],
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_two_devices_score_together_and_run_to_the_report(home):
    file, log, run = config(home, "sharded"), home / "sharded.log", home / "runs" / "sharded"
    assert run_to_end("merge", str(file), home=home, log=log, timeout=800) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    assert (run / "report.html").exists() and (run / "manifest.json").exists()
    planned = pyarrow.parquet.read_table(run / "prompts" / "train.parquet").to_pylist()
    assert Counter(row["teacher"] for row in planned) == {"math": 8, "code": 8}
    models = (STUDENT, home / "math-expert", home / "code-expert")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["teacher/math/sequences"] == line["teacher/code/sequences"] == PROMPTS * SAMPLES / 2
        assert line["teacher/math/advantage_std"] > 0 and line["teacher/code/advantage_std"] > 0
        assert line["scorer_swaps"] == 3 and line["seconds_scoring"] > 0
        assert line["scorer_bytes_read"] == sum(map(bytes_of, models))
    for domain in ("math", "code"):
        assert lines[0][f"teacher/{domain}/student_reference_distance"] < 1e-4
        assert lines[1][f"teacher/{domain}/student_reference_distance"] > 1e-4
    # a teacher that was never trained on this language knows none of it: about ln 99 nats a token below
    assert lines[0]["teacher/code/student_minus_teacher"] > 2 > lines[0]["teacher/math/student_minus_teacher"]
    before = weights_of(STUDENT)
    assert any((value != before[name]).any() for name, value in weights_of(run / "student").items())


def bytes_of(folder: Path) -> int:
    """Of a model's weights, as they are stored."""
    from safetensors.torch import load_file

    return sum(value.nbytes for value in load_file(folder / "model.safetensors").values())
