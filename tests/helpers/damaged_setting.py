"""A folder in which every command succeeds, so that each of its files can be damaged."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.locks import LOCK_NAME
from configs.load import load_config
from eval.records import Completion
from merging.run import evaluate_models
from tests.helpers.expert_orders import store_whole
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.opened_runs import open_run
from tests.helpers.run_folders import answers, write_run
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl, write_model


@dataclass(frozen=True)
class Setting:
    """A folder in which every command succeeds."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Setting:
        config = config_dict(folder) | {"registry": "./home"}
        write_jsonl(
            folder / "sums.jsonl",
            [{"id": f"p{i}", "prompt": f"{i}+5", "answer": str(i + 5)} for i in range(4)],
        )
        config["domains"]["math"]["benchmarks"] = [{"kind": "math", "name": "sums", "path": "./sums.jsonl"}]
        write_config(folder, config)
        for end in ("json", "csv", "jsonl.gz", "parquet"):
            own = copy.deepcopy(config)
            own["domains"]["math"]["prompts"]["path"] = f"rows.{end}"
            (folder / f"{end}.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
        _write_rows(folder)
        _write_adapter_config(folder, config)
        _write_registry(folder / "home")
        _write_run(folder)
        right = [1, 0, 1, 1]
        for name in ("one", "two"):
            write_run(folder / name, {"student": answers(right), "base": answers(right[::-1])})
        return cls(folder)


def _write_rows(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": f"{i}+1", "answer": str(i + 1)} for i in range(6)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "rows.csv").write_text("prompt,answer\n" + "".join(f"{i}+1,{i + 1}\n" for i in range(6)))
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress((folder / "math.jsonl").read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")


def _write_adapter_config(folder: Path, config: dict[str, Any]) -> None:
    write_adapter(folder / "adapter", base=folder / "student")
    own = copy.deepcopy(config)
    own["domains"]["math"]["expert"] = {"kind": "adapter", "path": "./adapter"}
    own["baselines"] = []
    (folder / "adapter.yaml").write_text(yaml.safe_dump(own, sort_keys=False))


class _Answers:
    """Stands for the generator: no answer is right."""

    def __init__(self, **_arguments: Any) -> None:
        pass

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def generate(self, model, problems, mode, n, **_settings):
        return {problem.id: [Completion("none", 4, True)] * n for problem in problems}


def _write_run(folder: Path) -> None:
    """A trained and evaluated run, `run`, of which `protege report` writes the report."""
    loaded = load_config(folder / "config.yaml", ["evaluation.samples_per_problem=1"])
    run = open_run(loaded, folder / "run").written()
    for place in (run.folder.student, run.folder.baseline("average")):
        write_model(place, value=0.8)
    run.folder.write_metrics("merge", [{"step": 1, "loss": 0.5}])
    evaluate_models(run.folder, run.teachers(), make_generator=_Answers)
    run.folder.train.mkdir()
    alarm = {"domain": "math", "kind": "length", "step": 1, "text": "long", "one_from": None}
    write_jsonl(run.folder.train / "alarms.jsonl", [alarm])
    (run.folder.path / LOCK_NAME).write_text('{"pid": 1, "started": 1}')


def _write_registry(home: Path) -> None:
    from teachers.registry.local import Registry

    score = {"accuracy": 0.5, "n": 4, "answers": 8, "interval": [0.2, 0.8], "unscored": 0}
    paired = {"base": score, "difference": 0.0, "difference_interval": [-0.1, 0.1]}
    largest = {"name": "model.norm.weight", "relative_l2": 0.1}
    measured = {
        "evaluation": {"sums": score | paired},
        "evaluation_settings": {"seed": 1},
        "distance": {"relative_l2": 0.1, "changed_share": 1.0, "tensors": 12, "largest": largest},
        "base": {"path": "/models/base", "weights_sha256": "0" * 64},
        "fingerprint": {"architecture": "LlamaForCausalLM", "parameters": 10},
        "identity": {"recipe": {"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 1}},
    }
    for number in range(2):
        file = Path(store_whole(Registry(home), {"x": number}).path) / "record.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | measured))
