"""The end-to-end tests' config."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.helpers.paths import DEMO


def small_config(folder: Path, **changes) -> Path:
    """The quickstart with few steps, rollouts and problems."""
    # with fewer rollouts it may be that no code answer is right, and the expert learns nothing
    expert = {"kind": "rl", "steps": 2, "prompts_per_step": 8, "samples_per_prompt": 8, "learning_rate": 1e-4,
              "save_every": 1, "seed": 0}  # fmt: skip
    math = {"kind": "math", "name": "math_heldout", "path": str(DEMO / "math.heldout.jsonl"), "limit": 12}
    code = {"kind": "evalplus", "name": "code_heldout", "path": str(DEMO / "code.heldout.evalplus.jsonl"),
            "prompt_field": "instruction", "completion": "append", "limit": 8}  # fmt: skip
    domains = {
        name: {
            "expert": expert,
            "prompts": {"kind": "file", "path": str(DEMO / f"{name}.train.jsonl")},
            "reward": name,
            "benchmarks": [benchmark],
        }
        for name, benchmark in (("math", math), ("code", code))
    }
    training = {"steps": 6, "prompts_per_step": 8, "learning_rate": 1e-3, "max_prompt_tokens": 72,
                "max_response_tokens": 48, "save_every": 2, "seed": 0}  # fmt: skip
    config = {
        "name": "small", "student": str(DEMO / "student"), "domains": domains, "training": training,
        "objective": {"reward_scale": 1.25, "estimator": "full"},
        "hardware": {"device": "cpu"}, "evaluation": {"samples_per_problem": 2},
        "baselines": ["average", "opd", "ties", "oracle"],
        "tracking": ["tensorboard", "wandb"], **changes,
    }  # fmt: skip
    path = folder / f"{config['name']}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def with_open_prompts(config: dict, folder: Path, routing: dict) -> None:
    """Adds prompts without labels or answers, so that the experts stay those of the other runs."""
    rows = [{"prompt": f"Math: {a}+{100 + a}"} for a in range(10, 16)]
    rows += [{"prompt": f"Code: sum of cubes of numbers above {n} in xs"} for n in range(60, 66)]
    (folder / "open.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config["prompts"] = {"kind": "file", "path": str(folder / "open.jsonl"), "columns": {"answer": None}}
    config["routing"] = routing
