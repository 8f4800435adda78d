"""From a sweep's runs to their reports and its own."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.progress import say
from merging.reporting import provenance
from merging.reporting import write as write_run

if TYPE_CHECKING:
    from eval.sweep.data import ProbePoint, SweepCurve, SweepData
    from merging.measure import Measured
    from merging.run import Teacher
    from merging.run_folder import RunFolder
    from merging.sweep import SweepRun

STUDENT = "student"


def write(
    sweep_dir: Path,
    runs: Sequence[SweepRun],
    folders: Mapping[SweepRun, RunFolder],
    teachers: list[Teacher],
    samples: Mapping[SweepRun, Mapping[tuple[str, str], Any]],
    measured: Measured,
) -> Path:
    """Writes every run's report, then `sweep.{md,html,json}`, prints the findings, and returns the page."""
    from eval.sweep.render import write_sweep
    from eval.sweep.wording import sentences

    with measured.stage("reports"):
        for run in runs:
            write_run(folders[run], teachers, samples[run])
    data = _data(sweep_dir, runs, folders, teachers, samples, measured)
    files = write_sweep(data, sweep_dir)
    for sentence in sentences(data):
        say(sentence)
    say(f"report: {files['html']}")
    return files["html"]


def _data(sweep_dir, runs, folders, teachers, samples, measured: Measured) -> SweepData:
    from eval.sweep.data import FixedModel, SweepData

    first = folders[runs[0]]
    config = first.config
    found = provenance(first, teachers)
    for varied in ("student weights", "seeds"):
        found.pop(varied)
    found["evaluation seed"] = str(config.evaluation.seed)
    models = [model for model in first.models(teachers) if model.role != STUDENT]
    return SweepData(
        name=sweep_dir.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seeds=tuple(sorted({run.seed for run in runs})),
        reward_scales=tuple(sorted({run.reward_scale for run in runs})),
        domains=tuple(config.domains),
        models=tuple(FixedModel(model.name, model.role, model.domain) for model in models),
        curves=tuple(_curves(runs, folders, teachers, samples)),
        training={(run.reward_scale, run.seed): folders[run].read_metrics("merge") for run in runs},
        probe=_probe(sweep_dir),
        runs=tuple(run.name for run in runs),
        config_yaml=runs[0].loaded.text,
        wall_seconds=measured.wall_seconds,
        peak_memory_bytes=measured.peak_memory_bytes or None,
        provenance=found,
    )


def _curves(runs, folders, teachers, samples) -> list[SweepCurve]:
    from eval.sweep.data import curve

    first = folders[runs[0]]
    names = first.teacher_names()
    fixed = [model.name for model in first.models(teachers) if model.role != STUDENT]
    modes = ["sampled", *(["greedy"] if first.config.evaluation.greedy else [])]
    return [
        curve(
            benchmark.name,
            domain,
            mode,
            {(run.reward_scale, run.seed): samples[run][STUDENT, benchmark.name] for run in runs},
            {name: samples[runs[0]][name, benchmark.name] for name in fixed},
            names[domain],
        )
        for domain, declared in first.config.domains.items()
        for benchmark in declared.benchmarks
        for mode in modes
    ]


def _probe(sweep_dir: Path) -> tuple[ProbePoint, ...]:
    from eval.sweep.data import ProbePoint

    path = sweep_dir / "probe.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return tuple(
        ProbePoint(row["domain"], row["reward_scale"], row["accuracy"], *row["interval"], row["prompts"])
        for row in rows
    )
