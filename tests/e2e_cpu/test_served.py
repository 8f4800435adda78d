"""A teacher in vLLM's own server: its scores, a merge to the report, and a server that dies in training."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from teachers.scoring.scorer import SharedScorer
from teachers.served.client import ServedClient, ServedModel
from teachers.served.examine import examine
from tests.helpers.model_copies import STUDENT, noisy_copy
from tests.helpers.paths import DEMO
from tests.helpers.processes import ended, left_behind, protege, run_to_end, steps_in, wait_for
from tests.helpers.scored import SEQUENCES
from tests.helpers.vllm_server import VllmServer, vllm_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

KEY, VARIABLE = "the-servers-secret", "PROTEGE_TEST_SERVER_KEY"
CONTEXT = 72 + 48 + 1
TOLERANCE = 1e-3
"""Nats by which vLLM and the shared scorer may differ in float32 on a CPU."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Working folder and registry of all runs here, and a math expert that is plainly not the base."""
    home = tmp_path_factory.mktemp("home")
    noisy_copy(home / "math-expert", seed=1)
    return home


@pytest.fixture(scope="module")
def server(home):
    log = home / "server.log"
    with vllm_server(home / "math-expert", "math-expert", CONTEXT, log, KEY) as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)


def config(home: Path, name: str, server: VllmServer, steps: int) -> Path:
    """One domain, whose teacher is served."""
    expert: dict[str, Any] = {
        "kind": "served", "url": server.url, "model": "math-expert", "api_key_env": VARIABLE,
        "patience_seconds": 5, "canary_tolerance": TOLERANCE,
    }  # fmt: skip
    benchmark = {"kind": "math", "name": "held_out", "path": str(DEMO / "math.heldout.jsonl"), "limit": 4}
    prompts = {"kind": "file", "path": str(DEMO / "math.train.jsonl")}
    values = {
        "name": name, "student": str(STUDENT), "baselines": [], "hardware": {"device": "cpu"},
        "domains": {"math": {"expert": expert, "prompts": prompts, "reward": "math",
                             "benchmarks": [benchmark]}},
        "training": {"steps": steps, "prompts_per_step": 16, "save_every": steps, "learning_rate": 1e-3,
                     "max_prompt_tokens": 72, "max_response_tokens": 48},
        "evaluation": {"samples_per_problem": 1, "greedy": False},
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_the_servers_scores_are_the_shared_scorers(home, server):
    from transformers import AutoTokenizer

    model = ServedModel("domains.math.expert", server.url, "math-expert", api_key_env=VARIABLE)
    facts = examine(model, AutoTokenizer.from_pretrained(STUDENT), CONTEXT)
    assert (facts.max_model_len, facts.root) == (CONTEXT, str(home / "math-expert"))

    async def served() -> list:
        async with ServedClient(model) as client:
            return await asyncio.gather(*(client.score(s.token_ids, s.response_tokens) for s in SEQUENCES))

    shared = SharedScorer({"math": str(home / "math-expert")}, "cpu", "float32", 64)
    pairs = list(zip(asyncio.run(served()), shared.score("math", SEQUENCES), strict=True))
    differences = [(one - other).abs().max().item() for one, other in pairs]
    print(f"largest difference: {max(differences):.2g} nats")
    assert max(differences) < TOLERANCE
    assert min(row.abs().max().item() for row, _ in pairs) > 1  # they are scores and not zeros


def test_a_merge_with_a_served_teacher_runs_to_its_report(home, server):
    file, log, run = config(home, "served", server, steps=3), home / "served.log", home / "runs" / "served"
    assert run_to_end("merge", str(file), home=home, log=log, timeout=600) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    first = {name.removeprefix("teacher/math/"): value for name, value in lines[0].items()}
    # the student is the reference: S - T = -(T - B), though T is read by one engine and B by another
    assert first["student_minus_teacher"] == pytest.approx(-first["implicit_reward"], abs=TOLERANCE)
    assert first["advantage_mean"] == pytest.approx(1.25 * first["implicit_reward"], abs=TOLERANCE)
    assert first["student_reference_distance"] < 1e-4 and first["advantage_std"] > 0.01
    report = json.loads((run / "report.json").read_text())
    assert report["models"].keys() == {"base", "math-teacher", "student"}
    answered = (run / "samples" / "math-teacher" / "held_out.jsonl").read_text().splitlines()
    assert len(answered) == 4 and all(json.loads(line)["tokens"] > 0 for line in answered)
    assert any("do not cancel in T - B" in note for note in report["notes"])
    provenance = json.loads((run / "manifest.json").read_text())["provenance"]
    assert f"math-expert at {server.url}" in provenance["math is served as"]
    texts = [path.read_bytes() for path in [*run.rglob("*"), log, file] if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)


def test_a_server_that_dies_in_training_ends_the_run_in_time_with_its_name(home, server):
    """The last test: the server does not come back."""
    file, log = config(home, "killed", server, steps=200), home / "killed.log"
    process = protege("merge", str(file), home=home, log=log)
    steps = home / "runs" / "killed" / "train" / "metrics.jsonl"
    wait_for(lambda: steps_in(steps) >= 1, 400, process, log)
    server.kill()
    began = time.monotonic()
    assert ended(process, 120, log) == 1, log.read_text()[-2000:]
    seconds = time.monotonic() - began
    print(f"ended {seconds:.1f} s after the server")
    assert seconds < 5 + 30  # its patience, and the end of all processes
    last = [line for line in log.read_text().splitlines() if line.strip()][-1]
    assert "first error: ServedError: domains.math.expert: model 'math-expert' at http" in last, last
    assert "no answer within patience_seconds = 5" in last and "Cannot connect to host" in last
    assert left_behind(home) == []
