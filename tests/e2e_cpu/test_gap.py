"""Shares that follow validations, with the real command: killed after a validation and continued."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

from configs.load import load_config
from merging.exopd.gap.shares import planned
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import DEMO
from tests.helpers.processes import kill_hard, left_behind, protege, run_to_end, steps_in, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS, SIZE = 6, 8


def config_in(home: Path) -> Path:
    """A merge of two given experts, whose rollouts verl also writes to files."""
    benchmark = {"kind": "math", "name": "math_heldout", "path": str(DEMO / "math.heldout.jsonl"), "limit": 4}
    domains = {
        domain: {
            "expert": {"kind": "model", "path": str(noisy_copy(home / domain, seed))},
            "prompts": {"kind": "file", "path": str(DEMO / f"{domain}.train.jsonl")},
            "reward": domain,
            "validation": {"kind": "file", "path": str(DEMO / f"{domain}.validation.jsonl")},
        }
        for seed, domain in enumerate(("math", "code"))
    }
    domains["math"]["benchmarks"] = [benchmark]
    config = {
        "name": "gap", "student": str(DEMO / "student"), "domains": domains,
        "mixing": "gap",
        "training": {"steps": STEPS, "prompts_per_step": SIZE, "learning_rate": 1e-3, "save_every": 6,
                     "max_prompt_tokens": 72, "max_response_tokens": 48, "seed": 0, "validate_every": 2,
                     "validation_samples": 2, "validation_limit": 12},
        "hardware": {"device": "cpu"},
        "evaluation": {"samples_per_problem": 1, "greedy": False}, "baselines": [],
        "verl": {"trainer.rollout_data_dir": str(home / "rollouts")},
    }  # fmt: skip
    path = home / "gap.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def test_a_merge_killed_after_a_validation_goes_on_with_the_rows_that_it_planned(tmp_path):
    config, log, run = config_in(tmp_path), tmp_path / "gap.log", tmp_path / "runs" / "gap"
    process = protege("merge", str(config), home=tmp_path, log=log)
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") >= 3, 400, process, log)
    kill_hard(process)
    assert left_behind(tmp_path) == []
    before = (run / "train" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in before][:2] == [0, 2]
    plan = planned(load_config(config).config, run / "train")
    assert len(plan) >= 4 and not (run / "train" / "rows.parquet").exists()

    assert run_to_end("merge", str(config), home=tmp_path, log=log, timeout=400) == 0, log.read_text()[-3000:]
    assert left_behind(tmp_path) == []
    assert (run / "train" / "validation.jsonl").read_text().splitlines()[:2] == before[:2]
    final = planned(load_config(config).config, run / "train")
    assert final[:4] == plan[:4] and [step.step for step in final] == list(range(1, STEPS + 1))
    assert len({tuple(step.shares.values()) for step in final}) > 1, "the shares have changed"

    read = pyarrow.parquet.read_table(run / "train" / "rows.parquet").to_pylist()
    assert [row["teacher"] for row in read] == [name for step in final for name in step.names]
    check_rollouts(read, tmp_path / "rollouts")
    lines = {int(line["step"]): line for line in map(json.loads, (run / "metrics.jsonl").open())}
    for step in final:
        for name, share in step.shares.items():
            assert lines[step.step][f"share/{name}"] == float(share)
            assert lines[step.step][f"teacher/{name}/sequences"] == step.names.count(name)
    report = json.loads((run / "report.json").read_text())
    counted = report["prompts"]["trainings"]["merge"]
    assert counted["planned"] == counted["trained"] == Counter(row["teacher"] for row in read)
    assert [plan["validation"] for plan in report["prompts"]["planned_shares"]] == [0, 2, 4]
    assert any("mixing: gap" in note for note in report["notes"])


def check_rollouts(read: list[dict], rollouts: Path) -> None:
    """Every step has sampled answers to the rows that the file has for it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "student")

    def shown(messages: list[dict]) -> str:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return tokenizer.decode(ids, skip_special_tokens=True)

    for step in range(1, STEPS + 1):
        lines = (rollouts / f"{step}.jsonl").read_text().splitlines()
        own = [shown(row["prompt"]) for row in read[(step - 1) * SIZE : step * SIZE]]
        assert Counter(json.loads(line)["input"] for line in lines) == Counter(own), step
