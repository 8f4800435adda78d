"""One merge from its config to its report. Every stage is found done, continued, or run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigError, RunFailed
from common.files import write_json
from common.locks import RunLock
from common.progress import bar, say
from configs.load import LoadedConfig
from configs.places import registry_root
from merging.baselines.kinds import TRAINED, Sources
from merging.baselines.oracle import with_oracle
from merging.baselines.teacher_more import train_teacher_more
from merging.baselines.weights import merge_weights
from merging.checks.found import Preflight
from merging.checks.preflight import STORED, checked, preflight
from merging.exopd.job import write_pool, write_rows
from merging.experts import build_or_find, record_scores
from merging.planning.plan import make_plan
from merging.state.adapted import write_full_student
from merging.state.baseline_record import is_made
from merging.state.cluster import Cluster, NoCluster
from merging.state.harness import ceilings, check_harness
from merging.state.run_folder import RunFolder, load_resolved
from merging.state.served import write_facts
from merging.state.teacher import Teacher
from merging.training.agreement import decide_open_prompts
from merging.training.distil import Distillation
from merging.training.polish import NAME as POLISH
from merging.training.polish import polish_student
from merging.training.reward_scales import choose_reward_scales
from merging.training.start import prepare_start
from routing.judged import polish_rows
from routing.kept import scheduled
from routing.routers.decisions import RoutedPrompt
from teachers.build import write_judged_rows
from teachers.models.adapters import is_adapter
from teachers.registry.merged import full_model
from teachers.registry.opening import open_registry
from trainer.cpu import warm


def merge(loaded: LoadedConfig, run_dir: Path) -> Path:
    """Runs, or continues, everything; returns the path of `report.html`.

    Raises ConfigError before anything starts, and RunFailed if a started part fails.
    """
    warm.start(loaded.config.hardware)
    found = preflight(loaded, run_dir)
    with RunLock(run_dir):
        folder = RunFolder.open(run_dir, loaded, found)
        (run_dir / "manifest.json").unlink(missing_ok=True)  # its presence means complete
        write_json(run_dir / "plan.json", make_plan(loaded, run_dir, found).to_json())
        write_facts(run_dir, found.served)
        for note in found.notes:
            say(f"note: {note}")
        check_harness(folder)
        with folder.measured.watching_memory(), Cluster(folder.config, run_dir) as cluster:
            teachers = experts(folder, found, cluster)
            found = decide_open_prompts(folder, found, teachers, cluster.on_device)
            folder = choose_reward_scales(folder, teachers, found.routed, cluster.on_device)
            write_prompts(folder, found)
            train_student(folder, teachers, cluster)
            train_baselines(folder, teachers, found.routed, cluster)
            cluster.close()  # evaluation wants the memory
            samples = evaluate_models(folder, teachers)
        record_scores(folder, teachers, samples)
        return report(folder, teachers, samples)


def build_experts(loaded: LoadedConfig) -> list:
    """Builds the config's experts that the registry does not hold yet; returns all their records."""
    scratch = registry_root(loaded.config.registry) / "runs" / loaded.config.name
    warm.start(loaded.config.hardware)
    found = preflight(loaded, scratch)
    with RunLock(scratch):
        folder = RunFolder.open(scratch, loaded, found)
        with Cluster(folder.config, scratch) as cluster:
            return [record for _, record in build_or_find(folder, found, cluster) if record is not None]


def evaluate_run(run_dir: Path) -> Path:
    """Evaluates a finished training again (unchanged results are reused) and writes the report.

    Raises ConfigError for a training that is not finished, and RunFailed.
    """
    loaded = load_resolved(run_dir)
    warm.start(loaded.config.hardware)
    found = preflight(loaded, run_dir)
    with RunLock(run_dir):
        folder = RunFolder.open(run_dir, loaded, found)
        teachers = experts(folder, found, NoCluster())
        _refuse_unfinished(folder)
        folder.write_overlaps(found)
        return report(folder, teachers, evaluate_models(folder, teachers))


def report_run(run_dir: Path) -> Path:
    """Writes a run's report from what is stored: nothing is generated, graded or built.

    Raises ConfigError where something is missing, or of other settings, with the command that makes it.
    """
    from eval.jobs import all_jobs, stored_samples

    loaded = load_resolved(run_dir)
    found = checked(Preflight(config=loaded.config, run_dir=run_dir), STORED)
    with RunLock(run_dir):
        folder = RunFolder.open(run_dir, loaded, found)
        _refuse_unfinished(folder)
        try:
            teachers = folder.read_teachers()
            ceilings(folder, grades=False)
            samples = stored_samples(all_jobs(**_evaluation(folder, teachers)))
        except ConfigError as error:
            raise ConfigError(
                f"{run_dir}: the report cannot be written from what is stored: {'; '.join(error.problems)}; "
                f"`protege eval {run_dir}` evaluates what is missing and writes it"
            ) from None
        return report(folder, teachers, with_oracle(folder, samples))


# ------------------------------------------------------------------------------------------- stages


def experts(folder: RunFolder, found: Preflight, cluster: Cluster) -> list[Teacher]:
    """Every domain's teacher: found in the registry, built, or the user's own."""
    teachers, config = [], folder.config
    for domain, record in build_or_find(folder, found, cluster):
        facts = found.served.get(domain)
        served = f"{facts.model} at {facts.url}" if facts else None
        if facts and domain not in found.fingerprints:
            teachers.append(Teacher(domain, None, facts.sha256, None, served=served))
            continue
        path = record.model_path if record else found.fingerprints[domain].path
        weights = (record or found.fingerprints[domain]).weights_sha256
        full = full_model(config.student, path, open_registry(config.registry))
        if full != path:
            say(f"expert {domain}: adapter and student as one model in {full}")
        adapter = path if is_adapter(path) else None
        teachers.append(Teacher(domain, full, weights, record.id if record else None, adapter, served))
    return teachers


def write_prompts(folder: RunFolder, found: Preflight) -> None:
    """Writes the training file: the rows of all steps, in order, each with its teacher; and the polish's."""
    config = folder.config
    if folder.prompts_file.exists():
        folder.write_overlaps(found)
        return
    with folder.measured.stage("prompts"):
        rows = scheduled(config, found.routed, config.training.prompts_per_step)
        if config.polish is not None:
            polished = polish_rows(config, config.polish, found.routed)
            write_judged_rows(config, polished, folder.polish_prompts)
        if asked := found.validation.rows:
            write_judged_rows(config, asked, folder.validation_prompts)
        if config.mixing.kind == "gap":
            write_pool(config, found.routed, folder.pool)
        folder.write_counts(rows, found)
        # last: it says that the stage is done
        write_rows(config, rows, folder.prompts_file)


def train_student(folder: RunFolder, teachers: list[Teacher], cluster: Cluster) -> None:
    """The merge itself, and its polish, each continued where it stopped; and the full model of an adapter."""
    if folder.distilled.exists():
        say("merge: found done")
    else:
        prepare_start(folder, teachers, cluster)
        with folder.measured.stage("merge"):
            Distillation(folder, teachers, "merge", folder.train).run(cluster, folder.distilled)
    if (polish := folder.config.polish) is not None and folder.student.exists():
        say("polish: found done")
    elif polish is not None:
        with folder.measured.stage(POLISH):
            polish_student(folder, polish, cluster)
    write_full_student(folder.config, folder.student)


def train_baselines(
    folder: RunFolder, teachers: list[Teacher], routed: Sequence[RoutedPrompt], cluster: Cluster
) -> None:
    """Trains or computes the config's baselines that are not there yet."""
    base = Path(folder.config.student)
    weight_baselines = {baseline.kind: baseline for baseline in folder.config.weight_baselines()}
    for baseline in folder.config.model_baselines():
        name, target = baseline.kind, folder.baseline(baseline.kind)
        if is_made(baseline, target):
            continue
        with folder.measured.stage(f"baseline {name}"):
            if name in TRAINED:
                TRAINED[name].train(baseline, Sources(folder, teachers, routed, cluster), target)
            else:
                given = [Path(teacher.folder) for teacher in teachers]
                merge_weights(weight_baselines[name], base, given, target)
    if (control := folder.config.teacher_more()) is not None:
        train_teacher_more(folder, control, teachers, cluster)


def _refuse_unfinished(folder: RunFolder) -> None:
    """For commands that train nothing: a baseline of other options must not be taken for the declared one."""
    if not folder.student.exists():
        raise ConfigError(f"{folder.path}: has no trained student yet; `protege merge` trains it")
    targets = [(each, folder.baseline(each.kind)) for each in folder.config.model_baselines()]
    if (more := folder.config.teacher_more()) is not None:
        targets += [(more, folder.teacher_more(control.domain)) for control in folder.controls()]
    for baseline, target in targets:
        if not is_made(baseline, target):
            raise ConfigError(
                f"{folder.path}: baseline `{baseline.kind}` is not made yet as the config declares it; "
                "`protege merge` makes it"
            )


def evaluate_models(folder: RunFolder, teachers: list[Teacher], **how: Any) -> dict:
    """Samples of every (model, benchmark); `how` goes to `eval.suite.evaluate`."""
    from eval.suite import evaluate

    config, asked = folder.config, _evaluation(folder, teachers)
    folder.write_teachers(teachers)
    ceilings(folder)
    ids = [
        (model.name, item.name)
        for model in asked["models"]
        for domain, item in asked["benchmarks"]
        if model.is_asked(domain)
    ]
    with folder.measured.stage("evaluation"), bar("evaluation", len(ids)) as shown:

        def progress(model: str, benchmark: str, done: int, total: int) -> None:
            shown.update(
                ids.index((model, benchmark)) + (done >= total), f"{model} on {benchmark}: {done}/{total}"
            )

        try:
            cache = registry_root(config.registry) / "samples"
            samples = evaluate(**asked, on_progress=progress, cache_dir=cache, **how)
        except RuntimeError as error:
            raise RunFailed(f"evaluation stopped: {error}") from error
    return with_oracle(folder, samples)


def _evaluation(folder: RunFolder, teachers: list[Teacher]) -> dict[str, Any]:
    """Everything that the samples depend on, as arguments of `eval.suite`."""
    config = folder.config
    domains = config.domains.items()
    return {
        "models": folder.models(teachers),
        "benchmarks": [(name, benchmark) for name, domain in domains for benchmark in domain.benchmarks],
        "settings": config.evaluation,
        "max_tokens": config.evaluation_tokens(),
        "hardware": config.hardware,
        "samples_dir": folder.samples,
        "modes": config.prompt_modes(),
    }


def report(folder: RunFolder, teachers: list[Teacher], samples: dict) -> Path:
    """Writes the report and prints its headline and every primary question."""
    from eval.report.headline import ONE_TRAINING
    from merging.reports.reporting import write

    path = write(folder, teachers, samples)
    found = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))
    say(found["headline"]["sentence"])
    say(ONE_TRAINING)
    for question in found["questions"]:
        say(question["sentence"])
    say(f"report: {path}")
    return path
