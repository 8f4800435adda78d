"""One merge from its config to its report. Every stage is found done, continued, or run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.baselines import DistilledBaseline, GrpoBaseline, SftBaseline
from configs.load import ConfigError, LoadedConfig, load_config, registry_root
from configs.schema import MergeConfig
from merging.agreement import decide_open_prompts
from merging.cluster import Cluster, NoCluster
from merging.distil import Distillation, distil_baseline
from merging.experts import record_scores
from merging.grpo import train_grpo
from merging.harness import check_harness
from merging.lock import RunLock
from merging.oracle import with_oracle
from merging.plan import make_plan
from merging.preflight import Preflight, preflight
from merging.progress import bar, say
from merging.prompt_data import mix_of
from merging.reward_scales import choose_reward_scales
from merging.run_folder import RunFolder
from merging.sft import train_sft
from routing.routers import RoutedPrompt
from trainer.files import write_json

STUDENT = "student"


@dataclass(frozen=True)
class Teacher:
    """The expert of one domain, wherever it comes from."""

    domain: str
    model_path: str
    weights_sha256: str
    record_id: str | None
    """Its id in the registry; None for the user's own."""
    adapter_path: str | None = None
    """The adapter's folder where it is one; `model_path` then holds it and the student as one model."""


def merge(loaded: LoadedConfig, run_dir: Path) -> Path:
    """Runs, or continues, everything; returns the path of `report.html`.

    Raises ConfigError before anything starts, and RunFailed if a started part fails.
    """
    found = preflight(loaded, run_dir)
    with RunLock(run_dir):
        folder = RunFolder.open(run_dir, loaded, found)
        (run_dir / "manifest.json").unlink(missing_ok=True)  # its presence means complete
        write_json(run_dir / "plan.json", make_plan(loaded, run_dir, found).to_json())
        for note in found.notes:
            say(f"note: {note}")
        check_harness(folder)
        with folder.measured.watching_memory(), Cluster(folder) as cluster:
            teachers = experts(folder, found, cluster)
            found = decide_open_prompts(folder, found, teachers)
            folder = choose_reward_scales(folder, teachers, found.routed)
            write_prompts(folder, found)
            train_student(folder, teachers, cluster)
            train_baselines(folder, teachers, found.routed, cluster)
            cluster.close()  # evaluation wants the memory
            samples = evaluate_models(folder, teachers)
        record_scores(folder, teachers, samples)
        return report(folder, teachers, samples)


def build_experts(loaded: LoadedConfig) -> list:
    """Builds the config's experts that the registry does not hold yet; returns all their records."""
    from merging.experts import build_or_find

    scratch = registry_root(loaded.config.registry) / "runs" / loaded.config.name
    found = preflight(loaded, scratch)
    with RunLock(scratch):
        folder = RunFolder.open(scratch, loaded, found)
        with Cluster(folder) as cluster:
            return [record for _, record in build_or_find(folder, found, cluster) if record is not None]


def evaluate_run(run_dir: Path) -> Path:
    """Evaluates a finished training again (unchanged results are reused) and writes the report."""
    loaded = _loaded_of(run_dir)
    found = preflight(loaded, run_dir)
    with RunLock(run_dir):
        folder = RunFolder.open(run_dir, loaded, found)
        teachers = experts(folder, found, NoCluster())
        if not folder.student.exists():
            raise ConfigError(f"{run_dir}: has no trained student yet; `protege merge` trains it")
        _refuse_other_baselines(folder)
        folder.write_overlaps(found)
        return report(folder, teachers, evaluate_models(folder, teachers))


def report_run(run_dir: Path) -> Path:
    """Writes a run's report again; answers and verdicts that are there are reused."""
    return evaluate_run(run_dir)


# ------------------------------------------------------------------------------------------- stages


def experts(folder: RunFolder, found: Preflight, cluster: Cluster) -> list[Teacher]:
    """Every domain's teacher: found in the registry, built, or the user's own."""
    from merging.adapters import full_model
    from merging.experts import build_or_find
    from teachers.adapters import is_adapter

    teachers = []
    for domain, record in build_or_find(folder, found, cluster):
        path = record.model_path if record else folder.config.domains[domain].expert.path
        weights = (record or found.fingerprints[domain]).weights_sha256
        full = full_model(folder.config, path)
        if full != path:
            say(f"expert {domain}: adapter and student as one model in {full}")
        adapter = path if is_adapter(path) else None
        teachers.append(Teacher(domain, full, weights, record.id if record else None, adapter))
    return teachers


def write_prompts(folder: RunFolder, found: Preflight) -> None:
    """Writes the training file: the rows of all steps, in order, each with its teacher."""
    from routing.dataset import write_parquet

    config = folder.config
    if folder.prompts_file.exists():
        folder.write_overlaps(found)
        return
    with folder.measured.stage("prompts"):
        rows = scheduled(config, found.routed, config.training.prompts_per_step)
        rewards = {name: domain.reward for name, domain in config.domains.items()}
        weights = {name: config.loss_weight_of(name) for name in config.domains}
        scales = [
            config.reward_scale_at(row.domain, 1 + place // config.training.prompts_per_step)
            for place, row in enumerate(rows)
        ]
        folder.write_counts(rows, found)
        # last: it says that the stage is done
        write_parquet(rows, folder.prompts_file, rewards, scales, weights)


def scheduled(
    config: MergeConfig, routed: Sequence[RoutedPrompt], prompts_per_step: int
) -> list[RoutedPrompt]:
    """All rows of a training on all domains, in reading order.

    A domain's rows are the same for any `prompts_per_step`, as far as they go, and in the same order unless
    a curriculum sorts them.
    """
    from merging.trained_rows import check_written

    mixed, steps = mix_of(config, routed), config.training.steps
    rows = mixed.rows(steps, prompts_per_step)
    check_written(Counter(row.domain for row in rows), mixed.counts(steps, prompts_per_step))
    return rows


def train_student(folder: RunFolder, teachers: list[Teacher], cluster: Cluster) -> None:
    """The merge itself, continued where it stopped."""
    if folder.student.exists():
        say("merge: found done")
        return
    with folder.measured.stage("merge"):
        Distillation(folder, teachers, "merge", folder.train).run(cluster, folder.student)


def train_baselines(
    folder: RunFolder, teachers: list[Teacher], routed: Sequence[RoutedPrompt], cluster: Cluster
) -> None:
    """Trains or computes the config's baselines that are not there yet."""
    from merging.weights import is_made, merge_weights

    base, given = Path(folder.config.student), [Path(teacher.model_path) for teacher in teachers]
    for baseline in folder.config.model_baselines():
        name, target = baseline.kind, folder.baseline(baseline.kind)
        if is_made(baseline, target):
            continue
        with folder.measured.stage(f"baseline {name}"):
            if isinstance(baseline, DistilledBaseline):
                distil_baseline(folder, baseline, teachers, cluster, target)
            elif isinstance(baseline, SftBaseline):
                train_sft(folder, baseline, teachers, cluster, target)
            elif isinstance(baseline, GrpoBaseline):
                rows = scheduled(folder.config, routed, folder.config.grpo_prompts_per_step(baseline))
                train_grpo(folder, baseline, rows, cluster, target)
            else:
                merge_weights(baseline, base, given, target)


def _refuse_other_baselines(folder: RunFolder) -> None:
    """For commands that make none: a baseline of other options must not be evaluated as the declared one."""
    from merging.weights import is_made

    for baseline in folder.config.model_baselines():
        if not is_made(baseline, folder.baseline(baseline.kind)):
            raise ConfigError(
                f"{folder.path}: baseline `{baseline.kind}` is not made yet as the config declares it; "
                "`protege merge` makes it"
            )


def evaluate_models(folder: RunFolder, teachers: list[Teacher], **how: Any) -> dict:
    """Samples of every (model, benchmark); `how` goes to `eval.suite.evaluate`."""
    from eval.suite import evaluate
    from trainer.errors import RunFailed

    config = folder.config
    benchmarks = [(name, item) for name, domain in config.domains.items() for item in domain.benchmarks]
    models = folder.models(teachers)
    with folder.measured.stage("evaluation"), bar("evaluation", len(models) * len(benchmarks)) as shown:
        ids = [(model.name, item.name) for model in models for _, item in benchmarks]

        def progress(model: str, benchmark: str, done: int, total: int) -> None:
            shown.update(
                ids.index((model, benchmark)) + (done >= total), f"{model} on {benchmark}: {done}/{total}"
            )

        try:
            samples = evaluate(
                models,
                benchmarks,
                config.evaluation,
                config.evaluation_tokens(),
                config.hardware,
                folder.samples,
                progress,
                cache_dir=registry_root(config.registry) / "samples",
                chat_template=config.chat_template,
                **how,
            )
        except RuntimeError as error:
            raise RunFailed(f"evaluation stopped: {error}") from error
    return with_oracle(folder, samples)


def report(folder: RunFolder, teachers: list[Teacher], samples: dict) -> Path:
    """Writes the report and prints its verdicts, but for those on the teachers of other domains."""
    from merging.reporting import write

    path = write(folder, teachers, samples)
    names = folder.teacher_names()
    for verdict in json.loads((folder.path / "report.json").read_text(encoding="utf-8"))["verdicts"]:
        if verdict["role"] != "teacher" or verdict["against"] in (
            names.get(verdict["domain"]),
            verdict["domain"],
        ):
            say(verdict["sentence"])
    say(f"report: {path}")
    return path


def _loaded_of(run_dir: Path) -> LoadedConfig:
    return load_config(run_dir / "config.resolved.yaml")
