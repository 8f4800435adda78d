"""From a run's records to its report, model card and manifest."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.baselines import OwnRateBaseline
from configs.load import registry_root
from configs.objective import ModelReference
from configs.schema import MergeConfig
from eval.report.routed import told
from merging.alarms import read_alarms
from merging.harness import ceilings
from merging.oracle import NOTE, oracle_model
from merging.prompt_report import prompt_use
from merging.reward_scales import read_choices
from merging.trained_rows import trained_rows
from merging.weights import options
from teachers.fingerprint import fingerprint
from teachers.provenance import versions
from teachers.registry import Registry, record_json
from trainer.files import write_json

if TYPE_CHECKING:
    from eval.benchmarks import BenchmarkTask
    from eval.report.data import BenchmarkInfo
    from merging.run import Teacher
    from merging.run_folder import RunFolder

REFERENCES = {
    "student": "the student's starting weights",
    "teacher_base": "the model that this teacher was before its reinforcement learning",
    "model": "one reference model",
}
"""What B was read from, in words, by the kind of `objective.reference`."""


def write(folder: RunFolder, teachers: list[Teacher], samples: dict) -> Path:
    """Writes `report.{md,html,json}`, the student's model card, programs in EvalPlus's format, and
    `manifest.json` last."""
    from eval.benchmarks import open_benchmark
    from eval.model_card import write_model_card
    from eval.report.data import build, from_samples
    from eval.report.probed import from_json
    from eval.report.render import write_report

    config = folder.config
    with folder.measured.stage("report"):
        tasks = [
            (domain, open_benchmark(benchmark))
            for domain, declared in config.domains.items()
            for benchmark in declared.benchmarks
        ]
        evaluation = from_samples(
            samples,
            [*folder.models(teachers), *oracle_model(folder)],
            _benchmarks(folder, tasks),
            config.evaluation.seed,
        )
        text = (folder.path / "config.yaml").read_text(encoding="utf-8")
        data = build(
            run=config.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            config_yaml=text,
            evaluation=evaluation,
            objective={domain: config.reward_scale_of(domain) for domain in config.domains},
            routing=folder.counts()["rows"],
            trained=trained_rows(
                folder.read_metrics("merge"), list(config.domains), config.training.samples_per_prompt
            ),
            router=folder.router(),
            curves=_curves(folder, teachers),
            wall_seconds=folder.measured.wall_seconds,
            peak_memory_bytes=folder.measured.peak_memory_bytes or None,
            provenance=provenance(folder, teachers),
            notes=_notes(folder),
            prompts=prompt_use(folder),
            probed=from_json(read_choices(folder.path)),
        )
        files = write_report(data, folder.path)
        report = json.loads(files["json"].read_text(encoding="utf-8"))
        write_model_card(folder.student, report, text, REFERENCES[config.objective.reference.kind])
        _write_programs(folder, tasks, samples)
    write_json(folder.path / "manifest.json", _manifest(folder, teachers))
    return files["html"]


def _benchmarks(folder: RunFolder, tasks: list[tuple[str, BenchmarkTask]]) -> list[BenchmarkInfo]:
    """Every (domain, benchmark) in every measured mode, with its source and its harness's ceiling."""
    from eval.report.data import BenchmarkInfo, benchmark_key

    known = ceilings(folder)
    modes = ["sampled", *(["greedy"] if folder.config.evaluation.greedy else [])]
    infos = []
    for domain, task in tasks:
        infos += [
            BenchmarkInfo(benchmark_key(task.name, mode), domain, mode, task.source, known[task.name])
            for mode in modes
        ]
    return infos


def _write_programs(folder: RunFolder, tasks: list[tuple[str, BenchmarkTask]], samples: dict) -> None:
    """Every model's answers to every benchmark of programs, beside its samples."""
    from eval.report.evalplus_samples import write_evalplus_samples

    by_name = {task.name: task for _domain, task in tasks}
    for (model, benchmark), answers in samples.items():
        write_evalplus_samples(by_name[benchmark], answers, folder.samples / model)


def _curves(folder: RunFolder, teachers: list[Teacher]) -> dict[str, list[dict[str, float]]]:
    registry = Registry(registry_root(folder.config.registry))
    curves = {}
    for teacher in teachers:
        if teacher.record_id is not None and (record := registry.find(teacher.record_id)) is not None:
            curves[f"expert {teacher.domain}"] = registry.curve(record)
    curves["merge"] = folder.read_metrics("merge")
    for baseline in folder.config.trained_baselines():
        curves[f"baseline {baseline.kind}"] = folder.read_metrics(baseline.kind)
    return curves


def provenance(folder: RunFolder, teachers: list[Teacher]) -> dict[str, str]:
    """Versions, digests of all weights, seeds and the machine, by what they are of."""
    config = folder.config
    found = dict(versions())
    found["base student weights"] = fingerprint(config.student).weights_sha256
    for teacher in teachers:
        origin = f"registry {teacher.record_id}" if teacher.record_id else "given"
        built = f" ({origin}{', an adapter on the student' if teacher.adapter_path else ''})"
        found[f"teacher {teacher.domain} weights"] = teacher.weights_sha256 + built
        base = getattr(config.domains[teacher.domain].expert, "base", None)
        if base is not None:
            found[f"base of teacher {teacher.domain} weights"] = fingerprint(base).weights_sha256
    if isinstance(config.objective.reference, ModelReference):
        found["reference weights"] = fingerprint(config.objective.reference.path).weights_sha256
    found["student weights"] = fingerprint(folder.student).weights_sha256
    for baseline in config.baselines:
        if declared := options(baseline):
            found[f"baseline {baseline.kind}"] = ", ".join(f"{k} {v}" for k, v in declared.items())
    for domain, reward in folder.counts().get("rewards", {}).items():
        found[f"reward of {domain}"] = reward
    found["seeds"] = f"training {config.training.seed}, evaluation {config.evaluation.seed}"
    found["system"] = platform.platform()
    return found


def _notes(folder: RunFolder) -> list[str]:
    said, counts = told(router) if (router := folder.router()) else [], folder.counts()
    notes = [*counts.get("notes", []), *counts.get("overlap_notes", [])]
    notes = [note for note in notes if note not in said]  # the section on routing has it
    kinds = [baseline.kind for baseline in folder.config.distilled_baselines()]
    works = {"merge": folder.train} | {f"baseline {kind}": folder.path / kind for kind in kinds}
    for name, work in works.items():
        notes += [f"{name}, {alarm.sentence}" for alarm in read_alarms(work)]
    return [*notes, *_own_rates(folder.config), *[NOTE] * folder.config.compares_oracle()]


def _own_rates(config: MergeConfig) -> list[str]:
    """Which baselines were trained at another learning rate than the merge."""
    merged = config.training.learning_rate
    own = {
        baseline.kind: baseline.learning_rate
        for baseline in config.baselines
        if isinstance(baseline, OwnRateBaseline) and baseline.learning_rate not in (None, merged)
    }
    return [
        f"baseline {kind} was trained at learning rate {rate:g}, the merge at {merged:g}"
        for kind, rate in own.items()
    ]


def _manifest(folder: RunFolder, teachers: list[Teacher]) -> dict[str, Any]:
    """What the run was and made; its presence says that the run is complete."""
    registry = Registry(registry_root(folder.config.registry))
    records = [registry.find(t.record_id) for t in teachers if t.record_id is not None]
    return {
        "run": folder.config.name,
        "complete": True,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "provenance": provenance(folder, teachers),
        "experts": [record_json(record) for record in records if record is not None],
        "wall_seconds": folder.measured.wall_seconds,
        "peak_memory_bytes": folder.measured.peak_memory_bytes,
    }
