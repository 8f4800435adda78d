"""From a run's records to its report, model card and manifest."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.files import write_json
from common.reading import read_text
from configs.places import registry_root
from configs.reading.yaml_text import parse_yaml
from configs.schema import MergeConfig
from eval.report.model_card import STARTING_WEIGHTS
from eval.report.sections.router import RouterSection
from eval.report.sections.trained_lambda import Phase
from merging.baselines.oracle import NOTE, oracle_model
from merging.exopd.gap.shares import share_notes
from merging.exopd.lambda_schedule import LambdaSchedule
from merging.reports.prompt_report import merge_rows, polish_use, prompt_use
from merging.state.adapted import FULL, adapter_text
from merging.state.baseline_record import options
from merging.state.chosen_scales import read_choices
from merging.state.harness import ceilings
from merging.state.served import read_facts
from merging.training.alarms import backed_off, read_alarms
from merging.training.polish import NAME as POLISH
from merging.training.start import start_notes, start_text
from merging.training.validation import validation_notes
from routing.routers.wording import confusion_table, histogram_rows, told
from routing.trained_rows import trained_rows
from teachers.models.adapters import weights_sha256
from teachers.models.fingerprint import fingerprint
from teachers.provenance import versions
from teachers.registry.local import Registry, record_json

if TYPE_CHECKING:
    from eval.benchmarks import BenchmarkTask
    from eval.records import Mode, Samples
    from eval.report.data import BenchmarkInfo
    from merging.state.run_folder import RunFolder
    from merging.state.teacher import Teacher

REFERENCES = {
    "student": STARTING_WEIGHTS,
    "teacher_base": "the model that this teacher was before its reinforcement learning",
    "model": "one reference model",
    "served": "one reference model, read by a server",
}
"""What B was read from, in words, by the kind of `objective.reference`."""


def write(folder: RunFolder, teachers: list[Teacher], samples: Samples) -> Path:
    """Writes `report.{md,html,json}`, the student's model card, programs in EvalPlus's format, and
    `manifest.json` last."""
    from eval.benchmarks import open_benchmark
    from eval.report.build import build
    from eval.report.from_samples import from_samples
    from eval.report.model_card import write_model_card
    from eval.report.render import write_report
    from eval.report.sections.probed import from_json

    config = folder.config
    text = _config_text(folder.path / "config.yaml")
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
        data = build(
            run=config.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            config_yaml=text,
            evaluation=evaluation,
            margin=config.evaluation.margin / 100,
            temperature=config.evaluation.temperature,
            objective=LambdaSchedule.of(config).scales,
            trained_lambda=trained_lambda(folder),
            routing=merge_rows(folder),
            trained=trained_rows(
                folder.read_metrics("merge"), list(config.domains), config.training.samples_per_prompt
            ),
            router=_router_section(folder.router()),
            curves=curves(folder, teachers),
            wall_seconds=folder.measured.wall_seconds,
            peak_memory_bytes=folder.measured.peak_memory_bytes or None,
            provenance=provenance(folder, teachers),
            notes=notes(folder),
            prompts=prompt_use(folder),
            polished=polish_use(folder),
            probed=from_json(read_choices(folder.path)),
        )
        files = write_report(data, folder.path)
        report = json.loads(files["json"].read_text(encoding="utf-8"))
        modes = {name: mode.told() for name, mode in config.prompt_modes().items()}
        trained = adapter_text(config.training)
        write_model_card(folder.student, report, text, reference_text(config), trained, modes)
        if (full := folder.path / FULL).exists():
            write_model_card(full, report, text, reference_text(config), modes=modes)
        _write_programs(folder, tasks, samples)
    write_json(folder.path / "manifest.json", _manifest(folder, teachers))
    return files["html"]


def _config_text(path: Path) -> str:
    """The config as it was written; raises ConfigError before anything of the report is."""
    text = read_text(path, "the run's config")
    if not isinstance(parse_yaml(text, str(path))[0], dict):
        raise ConfigError(f"{path}: no mapping (`name: ...`); it must be the run's config")
    return text


def reference_text(config: MergeConfig) -> str:
    """What B was read from, in words."""
    kind = config.objective.reference.kind
    elsewhere = kind == "student" and config.training.start.kind != "student"
    return "the base student" if elsewhere else REFERENCES[kind]


def trained_lambda(folder: RunFolder) -> dict[str, tuple[Phase, ...]]:
    """By domain: the phases of lambda that the merge was trained at, back-offs of its alarms included."""
    schedule = LambdaSchedule.of(folder.config, one_from=backed_off(read_alarms(folder.train)))
    return {
        domain: tuple(
            Phase(first, last, schedule.at(domain, first), schedule.at(domain, last))
            for first, last in schedule.spans(domain, folder.config.training.steps)
        )
        for domain in folder.config.domains
    }


def _router_section(router: Mapping[str, Any] | None) -> RouterSection | None:
    if router is None:
        return None
    return RouterSection(router, told(router), confusion_table(router), histogram_rows(router))


def _benchmarks(folder: RunFolder, tasks: list[tuple[str, BenchmarkTask]]) -> list[BenchmarkInfo]:
    """Every (domain, benchmark) in every measured mode, with its source and its harness's ceiling."""
    from eval.report.data import BenchmarkInfo, benchmark_key

    known = ceilings(folder)
    modes: list[Mode] = ["sampled", *(["greedy"] if folder.config.evaluation.greedy else [])]
    infos = []
    for domain, task in tasks:
        infos += [
            BenchmarkInfo(benchmark_key(task.name, mode), domain, mode, task.source, known[task.name])
            for mode in modes
        ]
    return infos


def _write_programs(folder: RunFolder, tasks: list[tuple[str, BenchmarkTask]], samples: Samples) -> None:
    """Every model's answers to every benchmark of programs, beside its samples."""
    from eval.report.evalplus_samples import write_evalplus_samples

    by_name = {task.name: task for _domain, task in tasks}
    for (model, benchmark), answers in samples.items():
        write_evalplus_samples(by_name[benchmark], answers, folder.samples / model)


def curves(folder: RunFolder, teachers: list[Teacher]) -> dict[str, list[dict[str, float]]]:
    """Metrics by step of every training of the run, the experts' included."""
    registry = Registry(registry_root(folder.config.registry))
    curves = {}
    for teacher in teachers:
        if teacher.record_id is not None and (record := registry.find(teacher.record_id)) is not None:
            curves[f"expert {teacher.domain}"] = registry.curve(record)
    curves["merge"] = folder.read_metrics("merge")
    if folder.config.polish is not None:
        curves[POLISH] = folder.read_metrics(POLISH)
    for baseline in folder.config.trained_baselines():
        curves[f"baseline {baseline.kind}"] = folder.read_metrics(baseline.kind)
    for control in folder.controls():
        curves[control.stage] = folder.read_metrics(control.name)
    return curves


def provenance(folder: RunFolder, teachers: list[Teacher]) -> dict[str, str]:
    """Versions, digests of all weights, seeds and the machine, by what they are of."""
    config = folder.config
    found = dict(versions())
    found["base student weights"] = fingerprint(config.student).weights_sha256
    for teacher in teachers:
        origin = f"registry {teacher.record_id}" if teacher.record_id else "given"
        built = f" ({origin}{', an adapter on the student' if teacher.adapter_path else ''})"
        if teacher.model_path is None:
            found[f"teacher {teacher.domain} canary"] = f"{teacher.weights_sha256} (no folder of its weights)"
        else:
            found[f"teacher {teacher.domain} weights"] = teacher.weights_sha256 + built
        base = getattr(config.domains[teacher.domain].expert, "base", None)
        if base is not None:
            found[f"base of teacher {teacher.domain} weights"] = fingerprint(base).weights_sha256
    for name, facts in read_facts(folder.path).items() if config.served() else ():
        found[f"{name} is served as"] = facts.told()
    if (path := config.objective.reference.path) is not None:
        found["reference weights"] = fingerprint(path).weights_sha256
    if config.training.start.kind != "student":
        digest = fingerprint(folder.start).weights_sha256
        found["start of the training"] = f"{digest} ({start_text(config)})"
    found["student weights"] = weights_sha256(folder.student)
    if (trained := adapter_text(config.training)) is not None:
        found["student weights"] += f" ({trained} on the base student)"
    if config.polish is not None:
        found["distilled student weights"] = weights_sha256(folder.distilled)
        declared = config.polish.model_dump(exclude={"verl"}, exclude_none=True)
        found["polish"] = ", ".join(f"{key} {value}" for key, value in declared.items())
    for baseline in config.baselines:
        if declared := options(baseline):
            found[f"baseline {baseline.kind}"] = ", ".join(f"{k} {v}" for k, v in declared.items())
    found |= _verl_settings(config)
    for domain, reward in folder.counts().get("rewards", {}).items():
        found[f"reward of {domain}"] = reward
    for domain, mode in config.prompt_modes().items():
        if told := mode.told():
            found[f"mode of {domain}"] = told
    found["seeds"] = f"training {config.training.seed}, evaluation {config.evaluation.seed}"
    found["system"] = platform.platform()
    return found


def _verl_settings(config: MergeConfig) -> dict[str, str]:
    """Settings of verl's that the config passes on, by the training that has them."""
    own: dict[str, Any] = {f"expert {name}": domain.expert for name, domain in config.domains.items()}
    own |= {f"baseline {baseline.kind}": baseline for baseline in config.trained_baselines()}
    own |= {POLISH: config.polish}
    parts = {"verl settings": config.verl_settings()} | {
        f"verl settings of {name}": config.verl_settings(part)
        for name, part in own.items()
        if getattr(part, "verl", None)
    }
    return {name: ", ".join(f"{k}={v}" for k, v in part.items()) for name, part in parts.items() if part}


def notes(folder: RunFolder) -> list[str]:
    """What a reader of the report should know of this run, one sentence each."""
    said, counts = told(router) if (router := folder.router()) else [], folder.counts()
    notes = [*counts.get("notes", []), *counts.get("overlap_notes", [])]
    notes = [note for note in notes if note not in said]  # the section on routing has it
    for name, work in folder.works().items():
        notes += [f"{name}, {alarm.sentence}" for alarm in read_alarms(work)]
    ahead = folder.config.training.overlap == "one_step"
    return [
        *notes,
        *start_notes(folder.config),
        *adapter_notes(folder.config),
        *validation_notes(folder),
        *share_notes(folder),
        *objective_notes(folder.config),
        *[AHEAD] * ahead,
        *_own_rates(folder.config),
        *[NOTE] * folder.config.compares_oracle(),
    ]


def adapter_notes(config: MergeConfig) -> list[str]:
    """What was trained and evaluated where the student is an adapter."""
    if (trained := adapter_text(config.training)) is None:
        return []
    others = [f"`{baseline.kind}`" for baseline in config.trained_baselines()]
    also = f"; so {'was' if len(others) == 1 else 'were'} {' and '.join(others)}" if others else ""
    return [
        f"the student was trained as {trained} on the base student (training.lora_rank), and is evaluated as "
        f"the full model that both make{also}"
    ]


def objective_notes(config: MergeConfig) -> list[str]:
    """What acts on the update beside lambda * (T - B) - (S - B)."""
    effects = {domain: config.verifiable_of(domain).effect for domain in config.domains}
    said = [f"{domain}: {effect} (objective.verifiable)" for domain, effect in effects.items() if effect]
    if (clip := config.objective.clip_log_ratio) is not None:
        said.append(f"T - B was clipped to {clip:g} nats a token (objective.clip_log_ratio)")
    return said


AHEAD = (
    "the student learned from answers that its weights of one update before had written "
    "(training.overlap: one_step)"
)


def _own_rates(config: MergeConfig) -> list[str]:
    """Which baselines were trained at another learning rate than the merge."""
    merged = config.training.learning_rate
    rates = {each.kind: options(each).get("learning_rate") for each in config.trained_baselines()}
    own = {kind: rate for kind, rate in rates.items() if rate not in (None, merged)}
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
