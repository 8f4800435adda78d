"""`protege sweep`: the same merge at several lambdas and seeds, with the experts built once.

Every run of the grid is a run folder of its own, `<sweep>/lambda-<lambda>.seed-<seed>`, that `protege merge`
could have made. The seed is the training's: order of the prompts and sampling of the rollouts. Experts, Ray,
the generation engine and the samples of models that do not change are shared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import write_json
from common.locks import RunLock
from common.progress import say
from common.words import gib
from configs.load import LoadedConfig, load_config
from eval.report.data import OPD_BASELINE
from eval.sweep.data import OPD_SCALE
from merging.checks.found import Preflight
from merging.checks.preflight import preflight
from merging.checks.probe_prompts import check_probed, prompts_of_probe
from merging.planning.memory import kept_bytes
from merging.reports.sweep_run import SweepRun
from merging.run import evaluate_models, experts, train_baselines, train_student, write_prompts
from merging.state.cluster import Cluster, OnDevice
from merging.state.harness import check_harness, harness_file
from merging.state.measure import Measured
from merging.state.run_folder import RunFolder
from merging.state.served import write_facts
from merging.state.teacher import Teacher
from merging.training.agreement import decide_open_prompts
from trainer.cpu import warm


def sweep(
    config: Path,
    overrides: Sequence[str],
    reward_scales: Sequence[float],
    seeds: int,
    sweep_dir: Path | None = None,
    with_probe: bool = False,
) -> Path:
    """Runs, or continues, every merge of the grid; returns the path of `sweep.html`.

    Raises ConfigError before anything starts, and RunFailed if a started part fails.
    """
    from merging.reports.sweep_report import write

    base = load_config(config, overrides)
    sweep_dir = (sweep_dir or Path("runs") / f"{base.config.name}.sweep").absolute()
    runs = grid(base, reward_scales, seeds, sweep_dir)
    warm.start(base.config.hardware)
    found = preflight(runs[0].loaded, runs[0].path)  # seed and lambda change nothing that is checked
    _check_disk(found, runs, sweep_dir)
    for domain, expert in found.experts(found.config).items() if with_probe else ():
        check_probed(expert)
        prompts_of_probe(runs[0].loaded.config, found.routed, domain, 1)
    with RunLock(sweep_dir), ExitStack() as locks:
        for run in runs:
            locks.enter_context(RunLock(run.path))
        folders = {run: RunFolder.open(run.path, run.loaded, found) for run in runs}
        first = folders[runs[0]]
        for folder in folders.values():
            write_facts(folder.path, found.served)
        check_harness(first)
        for folder in folders.values():
            if folder is not first:
                shutil.copy(harness_file(first), harness_file(folder))
        measured = Measured(sweep_dir)
        with measured.watching_memory(), Cluster(first.config, first.path) as cluster:
            with measured.stage("experts"):
                teachers = experts(first, found, cluster)
                found = decide_open_prompts(first, found, teachers, cluster.on_device)
            with measured.stage("merges"):
                _train(runs, folders, teachers, found, cluster)
            cluster.close()  # evaluation wants the memory
            if with_probe:
                with measured.stage("probe"):
                    scales = sorted({run.reward_scale for run in runs})
                    _probe(first, teachers, found, scales, sweep_dir, cluster.on_device)
                    cluster.close()
            with measured.stage("evaluation"):
                samples = _evaluate(runs, folders, teachers)
        return write(sweep_dir, runs, folders, teachers, samples, measured)


def grid(base: LoadedConfig, reward_scales: Sequence[float], seeds: int, sweep_dir: Path) -> list[SweepRun]:
    """Every (seed, lambda), seed by seed, so that an interrupted sweep has whole curves."""
    for domain, declared in base.config.domains.items():
        if declared.objective is not None and declared.objective.reward_scale is not None:
            raise ConfigError(
                f"domains.{domain}.objective.reward_scale: a sweep sets lambda for all domains; leave it out "
                f"(--set domains.{domain}.objective.reward_scale=null)"
            )
    scales = sorted(set(reward_scales))
    overrides = list(base.overrides)
    # lambda 1 of the grid is the same training, unless a polish follows it
    if OPD_SCALE in scales and base.config.trains_opd() and base.config.polish is None:
        others = [baseline for baseline in base.config.baselines if baseline.kind != OPD_BASELINE]
        kept = [baseline.model_dump(mode="json") for baseline in others]
        overrides.append(f"baselines={json.dumps(kept)}")
    runs = []
    for seed in range(base.config.training.seed, base.config.training.seed + seeds):
        for scale in scales:
            name = f"lambda-{scale:g}.seed-{seed}"
            point = (f"objective.reward_scale={scale!r}", f"training.seed={seed}")
            loaded = load_config(base.path, [*overrides, *point, f"name={base.config.name[:40]}.{name}"])
            runs.append(SweepRun(scale, seed, loaded, sweep_dir / name))
    return runs


def _check_disk(found: Preflight, runs: Sequence[SweepRun], sweep_dir: Path) -> None:
    """Every run keeps its models; the checkpoints of one run at a time lie beside them."""
    folder = next(parent for parent in (sweep_dir, *sweep_dir.parents) if parent.exists())
    needed = found.disk_bytes + (len(runs) - 1) * kept_bytes(runs[0].loaded.config, found.fingerprints)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"sweep folder {sweep_dir}: about {gib(needed)} of disk needed for {len(runs)} runs, "
            f"{gib(free)} free"
        )


def _train(
    runs: Sequence[SweepRun],
    folders: dict[SweepRun, RunFolder],
    teachers: list[Teacher],
    found: Preflight,
    cluster: Cluster,
) -> None:
    for place, run in enumerate(runs, 1):
        say(f"run {place} of {len(runs)}: lambda {run.reward_scale:g}, seed {run.seed}")
        write_prompts(folders[run], found)
        train_student(folders[run], teachers, cluster)
        train_baselines(folders[run], teachers, found.routed, cluster)
        for work in folders[run].works().values():  # their models are exported
            shutil.rmtree(work / "checkpoints", ignore_errors=True)


def _probe(
    folder: RunFolder,
    teachers: Sequence[Teacher],
    found: Preflight,
    reward_scales: Sequence[float],
    sweep_dir: Path,
    on_device: OnDevice,
) -> None:
    from merging.training.probe import sample_optima, table_row

    paths = {teacher.domain: teacher.folder for teacher in teachers}
    results = sample_optima(
        folder.config, found.routed, paths, reward_scales, lambda r: say(table_row(r)), on_device
    )
    write_json(sweep_dir / "probe.json", [result.to_json() for result in results])


def _evaluate(
    runs: Sequence[SweepRun], folders: dict[SweepRun, RunFolder], teachers: list[Teacher]
) -> dict[SweepRun, dict]:
    """Samples of every run; models that several runs share are found in the registry's cache."""
    with one_generator() as make_generator:
        return {run: evaluate_models(folders[run], teachers, make_generator=make_generator) for run in runs}


@contextmanager
def one_generator() -> Iterator[Callable[..., Any]]:
    """A stand-in for `Generator` that keeps one engine over several evaluations of equal settings."""
    from eval.generation.generate import Generator

    kept: dict[tuple, Generator] = {}

    @contextmanager
    def make(*, log_path: Path, **settings: Any) -> Iterator[Generator]:
        key = tuple((name, repr(value)) for name, value in sorted(settings.items()))
        if key not in kept:
            for other in kept.values():
                other.close()
            kept[key] = Generator(log_path=log_path, **settings)
        yield kept[key]

    try:
        yield make
    finally:
        for generator in kept.values():
            generator.close()
