"""Finished run folders with answers of the test's own, as `protege merge` leaves them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.records import Sample, Verdict, write_samples
from eval.report.build import build
from eval.report.data import BenchmarkInfo, ModelInfo
from eval.report.from_samples import from_samples
from eval.report.render import dumps, to_json

ROLES = {
    "student": "student",
    "math-teacher": "teacher",
    "base": "base",
    "average": "baseline",
    "opd": "baseline",
}


def answers(right: Sequence[int], benchmark="sums", mode="sampled", index=0, **changes) -> list[Sample]:
    """One answer to each problem p0, p1, ...; None in `right` could not be judged."""
    verdicts = {1: Verdict.PASS, 0: Verdict.FAIL, None: Verdict.UNSCORED}
    return [
        Sample(**{
            "benchmark": benchmark, "problem_id": f"p{i}", "mode": mode, "index": index,
            "prompt": ({"role": "user", "content": f"{i}+1"},), "completion": f"answer {value}", "tokens": 10,
            "finished": True, "verdict": verdicts[value], "detail": "", **changes,
        })
        for i, value in enumerate(right)
    ]  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "student": "/models/student",
        "domains": {
            "math": {
                "expert": {"kind": "model", "path": "/models/math"},
                "prompts": {"kind": "file", "path": "/data/math.jsonl"},
                "reward": "math",
                "benchmarks": [{"kind": "math", "name": "sums", "path": "/data/sums.jsonl"}],
            }
        },
        "objective": {"reward_scale": 1.25},
        "training": {"steps": 2, "max_prompt_tokens": 16, "max_response_tokens": 16},
        "evaluation": {"samples_per_problem": 1, "greedy": False},
        "hardware": {"device": "cpu"},
    }


def write_run(
    folder: Path,
    models: Mapping[str, Sequence[Sample]],
    *,
    config: Mapping[str, Any] | None = None,
    digest: str = "0123456789ab",
    grading: str = "key",
    provenance: Mapping[str, str] | None = None,
    wall_seconds: Mapping[str, float] | None = None,
) -> Path:
    """A finished run whose models gave these answers; one file of samples for each benchmark among them."""
    folder.mkdir(parents=True)
    config = {**config_of(folder.name), **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    resolved = {**config, "registry": None}
    (folder / "config.resolved.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    samples: dict[tuple[str, str], list[Sample]] = {}
    for model, found in models.items():
        for sample in found:
            samples.setdefault((model, sample.benchmark), []).append(sample)
    for (model, benchmark), found in samples.items():
        place = folder / "samples" / model / f"{benchmark}.jsonl"
        write_samples(place, found)
        write_key(place, grading)
    kinds = dict.fromkeys((s.benchmark, s.mode) for found in models.values() for s in found)
    infos = [
        BenchmarkInfo(
            name + "@greedy" * (mode == "greedy"), "math", mode, f"{name}; 8 problems, digest {digest}"
        )
        for name, mode in kinds
    ]
    infos_of = [ModelInfo(name, ROLES[name], "math" if ROLES[name] == "teacher" else None) for name in models]
    data = build(
        run=folder.name,
        created="2026-01-02T03:04:05+00:00",
        config_yaml="",
        evaluation=from_samples(samples, infos_of, infos, 1),
        margin=0.02,
        temperature=1.0,
        objective={"math": config["objective"]["reward_scale"]},
        routing={"math": 8},
        curves={},
        wall_seconds=wall_seconds or {"merge": 90.0},
        peak_memory_bytes=2**31,
        provenance=provenance or {"torch": "2.13.0", "machine": "vm"},
    )
    (folder / "report.json").write_text(dumps(to_json(data)))
    (folder / "manifest.json").write_text("{}")
    return folder


def write_key(place: Path, grading: str) -> None:
    """The sidecar of a file of samples, as `eval.suite` writes it."""
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    key = {"generation": "key", "grading": grading, "samples": digest}
    place.with_name(f"{place.stem}.key.json").write_text(json.dumps(key))
