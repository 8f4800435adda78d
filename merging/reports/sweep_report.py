"""From a sweep's runs to their reports and its own."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.progress import say
from common.reading import read_json
from eval.records import is_asked
from eval.report.data import DISTILLED, OPD_MORE_BASELINE
from merging.reports.reporting import provenance, trained_lambda
from merging.reports.reporting import write as write_run
from merging.state.chosen_scales import StoredResult

if TYPE_CHECKING:
    from eval.records import Mode, Samples
    from eval.sweep.data import FixedModel, ProbePoint, SweepCurve, SweepData
    from merging.reports.sweep_run import SweepRun
    from merging.state.measure import Measured
    from merging.state.run_folder import RunFolder
    from merging.state.teacher import Teacher

STUDENT: Final = "student"


def write(
    sweep_dir: Path,
    runs: Sequence[SweepRun],
    folders: Mapping[SweepRun, RunFolder],
    teachers: list[Teacher],
    samples: Mapping[SweepRun, Samples],
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


def _data(
    sweep_dir: Path,
    runs: Sequence[SweepRun],
    folders: Mapping[SweepRun, RunFolder],
    teachers: list[Teacher],
    samples: Mapping[SweepRun, Samples],
    measured: Measured,
) -> SweepData:
    from eval.sweep.data import SweepData

    first = folders[runs[0]]
    config = first.config
    found = provenance(first, teachers)
    for varied in ("student weights", "distilled student weights", "seeds"):
        found.pop(varied, None)
    found["evaluation seed"] = str(config.evaluation.seed)
    return SweepData(
        name=sweep_dir.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seeds=tuple(sorted({run.seed for run in runs})),
        reward_scales=tuple(sorted({run.reward_scale for run in runs})),
        domains=tuple(config.domains),
        models=_fixed(first, teachers),
        curves=tuple(_curves(runs, folders, teachers, samples)),
        training={(run.reward_scale, run.seed): folders[run].read_metrics("merge") for run in runs},
        probe=_probe(sweep_dir),
        runs=tuple(run.name for run in runs),
        trained_lambda={(run.reward_scale, run.seed): trained_lambda(folders[run]) for run in runs},
        margin=config.evaluation.margin / 100,
        polish_steps=config.polish.steps if config.polish else 0,
        config_yaml=runs[0].loaded.text,
        wall_seconds=measured.wall_seconds,
        peak_memory_bytes=measured.peak_memory_bytes or None,
        provenance=found,
    )


def _fixed(folder: RunFolder, teachers: list[Teacher]) -> tuple[FixedModel, ...]:
    """The models beside the students, without those that depend on the run's lambda."""
    from eval.sweep.data import FixedModel

    return tuple(
        FixedModel(model.name, model.role, model.domain)
        for model in folder.models(teachers)
        if model.role != STUDENT and model.name not in (DISTILLED, OPD_MORE_BASELINE)
    )


def _curves(
    runs: Sequence[SweepRun],
    folders: Mapping[SweepRun, RunFolder],
    teachers: list[Teacher],
    samples: Mapping[SweepRun, Samples],
) -> list[SweepCurve]:
    from eval.sweep.data import curve

    first = folders[runs[0]]
    names = first.teacher_names()
    fixed = _fixed(first, teachers)
    modes: list[Mode] = ["sampled", *(["greedy"] if first.config.evaluation.greedy else [])]
    return [
        curve(
            benchmark.name,
            domain,
            mode,
            {(run.reward_scale, run.seed): samples[run][STUDENT, benchmark.name] for run in runs},
            {
                m.name: samples[runs[0]][m.name, benchmark.name]
                for m in fixed
                if is_asked(m.role, m.domain, domain)
            },
            names[domain],
        )
        for domain, declared in first.config.domains.items()
        for benchmark in declared.benchmarks
        for mode in modes
    ]


def _probe(sweep_dir: Path) -> tuple[ProbePoint, ...]:
    from eval.sweep.data import ProbePoint

    path = sweep_dir / "probe.json"
    rows = read_json(path, list[StoredResult], "the record of a probe") if path.exists() else []
    return tuple(
        ProbePoint(
            row["domain"],
            row["reward_scale"],
            row["accuracy"],
            *row["interval"],
            row["prompts"],
            (own["accuracy"], *own["interval"]) if (own := row.get("greedy")) else None,
        )
        for row in rows
    )
