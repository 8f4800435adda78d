"""A run with the baseline `grpo`."""

from __future__ import annotations

from pathlib import Path

from configs.load import LoadedConfig, load_config
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import sum_rows, write_config, write_jsonl

REWARDS = {"math": "exact", "code": "number", "logic": "math"}
PAIRS = "baselines=[{kind: grpo, samples_per_prompt: 2}]"
"""Two answers to each prompt, so four prompts a step."""


def grpo_config(tmp_path: Path, *overrides: str, domains: tuple[str, ...] = ("math", "code")) -> LoadedConfig:
    """Eight rollouts a step, two steps; `math` has four prompts, `code` two, `logic` three."""
    counts = {"math": 4, "code": 2, "logic": 3}
    for name in domains:
        rows = [{**row, "prompt": f"{name} {row['prompt']}"} for row in sum_rows(counts[name])]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    config = {
        "name": "demo",
        "student": str(STUDENT),
        "domains": {
            name: {
                "expert": {"kind": "model", "path": str(STUDENT)},
                "prompts": {"kind": "file", "path": f"{name}.jsonl"},
                "reward": REWARDS[name],
            }
            for name in domains
        },
        "training": {"steps": 2, "prompts_per_step": 8, "max_prompt_tokens": 24, "max_response_tokens": 16},
        "hardware": {"device": "cpu"},
        "registry": "home",
    }  # fmt: skip
    return load_config(write_config(tmp_path, config), overrides or (PAIRS,))
