"""Run folders as the first stages of a merge leave them: checked, opened, experts found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import LoadedConfig
from merging import run as run_module
from merging.checks.found import Preflight
from merging.checks.preflight import preflight
from merging.state.cluster import NoCluster
from merging.state.run_folder import RunFolder
from merging.state.teacher import Teacher
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import sum_rows, write_jsonl


@dataclass(frozen=True)
class OpenedRun:
    """A run's folder and what the checks found."""

    folder: RunFolder
    found: Preflight

    def teachers(self) -> list[Teacher]:
        """The experts, none of which is built."""
        return run_module.experts(self.folder, self.found, NoCluster())

    def written(self) -> OpenedRun:
        """The same run, its prompts written."""
        run_module.write_prompts(self.folder, self.found)
        return self


def open_run(loaded: LoadedConfig, run_dir: Path) -> OpenedRun:
    """Checks the config and opens the run's folder."""
    found = preflight(loaded, run_dir)
    return OpenedRun(RunFolder.open(run_dir, loaded, found), found)


def expert_beside_model(folder: Path, math: dict[str, Any]) -> dict[str, Any]:
    """A config of the demo student and two domains of six prompts each: math has this expert, code a model.

    A folder that has its model is left as it is.
    """
    if not (folder / "code_expert").exists():
        noisy_copy(folder / "code_expert", seed=2)
        write_jsonl(folder / "math.jsonl", sum_rows(6))
        write_jsonl(folder / "code.jsonl", [{"prompt": f"def f{i}", "answer": "x"} for i in range(6)])
    experts = {"math": math, "code": {"kind": "model", "path": "./code_expert"}}
    return {
        "name": "demo",
        "student": str(STUDENT),
        "domains": {
            name: {"expert": expert, "prompts": {"kind": "file", "path": f"{name}.jsonl"}, "reward": "exact"}
            for name, expert in experts.items()
        },
        "training": {"steps": 2, "prompts_per_step": 4, "max_prompt_tokens": 16, "max_response_tokens": 16},
        "hardware": {"device": "cpu"},
        "registry": "./home",
    }


def adapter_beside_model(folder: Path) -> dict[str, Any]:
    """As `expert_beside_model`; math's expert is an adapter."""
    write_adapter(folder / "math_adapter", seed=1)
    return expert_beside_model(folder, {"kind": "adapter", "path": "math_adapter"})
