"""Everything that can be refused before Ray starts, in one pass; each problem is one message."""

from __future__ import annotations

import glob
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.experts import AdapterExpert, ModelExpert, RLExpert
from configs.load import ConfigError, LoadedConfig
from configs.objective import ModelReference
from configs.schema import MergeConfig
from merging import prompt_data
from merging.agreement_file import decisions_key
from merging.lock import check_free
from merging.model_checks import base_key, built_parameters, check_models, collecting, scored_parameters
from merging.names import REFERENCE
from merging.prompt_data import BenchmarkProblem, Dropped, Repeat
from merging.prompt_stage import (
    PromptStage,
    check_answers,
    check_decided,
    check_experts_prompts,
    read_prompts,
    split,
    unanswered,
)
from merging.registered import Registered, find_registered
from merging.reward_checks import check_rewards
from routing.routers import RoutedPrompt
from teachers.fingerprint import ModelFingerprint

GIB = 2**30

CPU_PROCESSES_BYTES = 4 * GIB
"""Ray, trainer and vLLM processes on a CPU before any weights; a GRPO run of a 0.1M-parameter model
peaked at 5.7 GiB over 24 processes, shared pages counted in each."""

CPU_TRAINING_BYTES = 20
"""Bytes a parameter in float32 on a CPU: weights, gradient, two Adam moments, and vLLM's copy."""

DISTRIBUTIONS_BYTES = 2 * GIB
"""Most that the scorer may send to the trainer in a step."""

CHECKPOINT_BYTES = 12
"""Bytes a parameter of a checkpoint: float32 weights and two Adam moments."""


@dataclass(frozen=True)
class Preflight:
    """What the checks found; a run can be started from it."""

    student: Path
    """The student's folder."""
    fingerprints: dict[str, ModelFingerprint]
    """Of `student`, of each domain whose expert is the user's own model or adapter, of the bases of experts
    (`base of <domain>`), and of a reference of its own (`reference`)."""
    routed: list[RoutedPrompt]
    """All prompts that may be trained on and have a domain, before mixing."""
    dropped: list[Dropped]
    """Prompts that were read and are not trained on."""
    conflicts: dict[str, int]
    """How many prompts of a domain stand in another one too, trained on or dropped."""
    longest_prompt: dict[str, int]
    """Tokens of the longest prompt of each domain, chat template included."""
    overlaps: list[Repeat]
    """Prompts that repeat a problem of a benchmark, trained on or dropped."""
    overlap_action: str
    """`overlap.action`."""
    memory_bytes: int | None
    """Estimated peak of main memory on this machine; None where the work is on GPUs."""
    disk_bytes: int
    """Estimated need of disk space."""
    undecided: list[RoutedPrompt] = field(default_factory=list)
    """Prompts that may be trained on, and get their domain once the experts are there."""
    router: Mapping[str, Any] | None = None
    """What the router tells of itself, see `routing.routers.Decisions`."""
    decisions_key: str = ""
    """What the decisions of the router `agreement` are kept under."""
    unanswered: dict[str, int] = field(default_factory=dict)
    """By domain, prompts whose expert cannot be built on them for want of an answer."""
    registered: Registered = field(default_factory=Registered)
    """Experts that the config names by their id in the registry."""

    @property
    def notes(self) -> list[str]:
        """What the user should know although nothing is refused."""
        notes = prompt_data.notes(self.dropped, self.overlaps, self.conflicts, self.overlap_action)
        return [*notes, *self.router_notes(), *self.registered.notes()]

    def router_notes(self) -> list[str]:
        """What the user should know of the router."""
        from eval.report.routed import told

        unread = [
            f"{count} prompts that the router gave to {domain} have no answer; its expert is built without"
            for domain, count in self.unanswered.items()
        ]
        open_ones = f"{len(self.undecided)} prompts get their domain once the experts are there (agreement)"
        return [*(told(self.router) if self.router else []), *unread, *[open_ones] * bool(self.undecided)]

    def with_folders(self, config: MergeConfig) -> MergeConfig:
        """The config with every model given by its folder, as trainer and evaluation need it."""
        config = self.registered.resolved(config)
        domains = dict(config.domains)
        for name, domain in domains.items():
            paths = {}
            if isinstance(domain.expert, ModelExpert | AdapterExpert):
                paths["path"] = self.fingerprints[name].path
            if base_key(name) in self.fingerprints:
                paths["base"] = self.fingerprints[base_key(name)].path
            expert = domain.expert.model_copy(update=paths)
            domains[name] = domain.model_copy(update={"expert": expert})
        objective = config.objective
        if isinstance(objective.reference, ModelReference):
            reference = objective.reference.model_copy(update={"path": self.fingerprints[REFERENCE].path})
            objective = objective.model_copy(update={"reference": reference})
        return config.model_copy(
            update={"student": str(self.student), "domains": domains, "objective": objective}
        )

    def counts(self) -> dict[str, int]:
        """Prompts of each domain that may be trained on."""
        return dict(Counter(item.domain for item in self.routed))


def preflight(loaded: LoadedConfig, run_dir: Path) -> Preflight:
    """Check a config against this machine; raises ConfigError with every problem found.

    Reads models' files, prompts and benchmark files; starts nothing and writes nothing.
    """
    from teachers.fingerprint import resolve_model

    problems: list[str] = []
    registered = find_registered(loaded.config, problems)
    config = registered.resolved(loaded.config)
    with collecting(problems):
        check_free(run_dir)
    with collecting(problems):
        _check_devices(config)
    fingerprints = check_models(config, problems)
    stage, overlaps = PromptStage(), []
    conflicts: dict[str, int] = {}
    with collecting(problems):
        stage = read_prompts(config, run_dir)
        decided, _ = split(stage.routed)
        check_answers(config, stage.routed)
        check_rewards(config, decided)
        check_experts_prompts(config, decided)
    routed, dropped = stage.routed, stage.dropped
    with collecting(problems):
        (routed, gone), conflicts = prompt_data.without_conflicts(routed, config.conflicts)
        dropped += gone
    asked, endings = _problems(config, problems), _endings(config)
    overlaps = prompt_data.find_repeats(routed, asked, config.overlap.ngram, endings)
    with collecting(problems):
        routed, gone = prompt_data.without_repeats(routed, overlaps, config.overlap.action)
        dropped += gone
    longest: dict[str, int] = {}
    student = fingerprints.get("student")
    memory, disk = None, 0
    if student:
        with collecting(problems):
            _check_estimator(config, student)
        with collecting(problems):
            _check_template(student)
            (routed, gone), longest = prompt_data.without_long(routed, Path(student.path), config)
            dropped += gone
            overlaps = prompt_data.not_among(overlaps, gone)
        with collecting(problems):
            memory = _check_memory(config, fingerprints)
        with collecting(problems):
            disk = _check_disk(config, fingerprints, run_dir)
    decided, undecided = split(routed)
    if routed and not undecided:
        with collecting(problems):
            check_decided(config, routed, dropped)
    if problems:
        raise ConfigError(*problems)
    return Preflight(
        student=resolve_model(config.student),
        fingerprints=fingerprints,
        routed=decided,
        undecided=undecided,
        router=stage.measured,
        decisions_key=decisions_key(config),
        unanswered=unanswered(config, decided),
        dropped=dropped,
        conflicts=conflicts,
        longest_prompt=longest,
        overlaps=overlaps,
        overlap_action=config.overlap.action,
        memory_bytes=memory,
        disk_bytes=disk,
        registered=registered,
    )


# ---------------------------------------------------------------------------------------- estimator


def _check_estimator(config: MergeConfig, student: ModelFingerprint) -> None:
    """The scorer sends whole distributions to the trainer: they must be of a size that can be sent."""
    estimator, training = config.objective.estimator, config.training
    if estimator.kind == "topk" and estimator.k >= student.vocab_size:
        raise ConfigError(
            f"objective.estimator.k = {estimator.k}: the student's vocabulary has {student.vocab_size} "
            "tokens; choose fewer, or `full`"
        )
    if estimator.kind == "full":
        rollouts = training.prompts_per_step * training.samples_per_prompt
        needed = 4 * rollouts * training.max_response_tokens * student.vocab_size
        if needed > DISTRIBUTIONS_BYTES:
            raise ConfigError(
                f"objective.estimator: full sends {rollouts} rollouts x {training.max_response_tokens} "
                f"tokens x {student.vocab_size} vocabulary entries, up to {needed / GIB:.1f} GiB a step (at "
                f"most {DISTRIBUTIONS_BYTES / GIB:.0f}); use {{kind: topk, k: 64}}"
            )


# ------------------------------------------------------------------------------ prompts, benchmarks


def _check_template(student: ModelFingerprint) -> None:
    if student.chat_template_sha256 is None:
        raise ConfigError(f"student ({student.path}): has no chat template, so it cannot be prompted")


def _problems(config: MergeConfig, problems: list[str]) -> list[BenchmarkProblem]:
    """The problems of every benchmark; one that cannot be opened is added to `problems` of the config."""
    found: list[BenchmarkProblem] = []
    for domain_name, domain in config.domains.items():
        for position, benchmark in enumerate(domain.benchmarks):
            try:
                found += _problems_of(benchmark)
            except ConfigError as error:
                place = f"domains.{domain_name}.benchmarks[{position}]"
                problems += [f"{place}: {problem}" for problem in error.problems]
    return found


def _endings(config: MergeConfig) -> list[str]:
    """Instructions after the text of prompts and problems, which are no part of the question."""
    from eval.benchmarks.math_task import BOX_INSTRUCTION

    sources = [config.prompts, *(domain.prompts for domain in config.domains.values())]
    benchmarks = [benchmark for domain in config.domains.values() for benchmark in domain.benchmarks]
    suffixes = [source.suffix for source in sources if source is not None]
    suffixes += [getattr(benchmark, "suffix", "") for benchmark in benchmarks]
    return [BOX_INSTRUCTION, *filter(None, suffixes)]


def _problems_of(benchmark) -> list[BenchmarkProblem]:
    """What the benchmark's problems ask; raises ConfigError if it cannot be opened."""
    if benchmark.path is not None and not benchmark.path.is_file():
        raise ConfigError(f"{benchmark.path}: no such benchmark file")
    from eval.benchmarks import open_benchmark

    try:
        task = open_benchmark(benchmark)
    except OSError as error:  # a standard benchmark's own source could not be reached
        raise ConfigError(
            f"benchmark {benchmark.name!r} cannot be loaded: {error}; `path` names a local copy"
        ) from None
    return [
        BenchmarkProblem(
            benchmark.name,
            str(problem.id),
            "\n".join(m["content"] for m in problem.messages if m["role"] == "user"),
        )
        for problem in task.problems
    ]


# ------------------------------------------------------------------------------------------- machine


def _check_devices(config: MergeConfig) -> None:
    """Devices exist, and batches divide over them as verl demands."""
    hardware = config.hardware
    devices = hardware.gpus * hardware.nodes
    batches = {"training": config.training}
    for name, domain in config.domains.items():
        if isinstance(domain.expert, RLExpert):
            batches[f"domains.{name}.expert"] = domain.expert
    for place, part in batches.items():
        rollouts = part.prompts_per_step * part.samples_per_prompt
        if rollouts % devices:
            raise ConfigError(
                f"{place}: prompts_per_step * samples_per_prompt = {rollouts} is no multiple of the "
                f"{devices} devices (hardware.gpus * hardware.nodes)"
            )
    if devices % hardware.rollout_tensor_parallel:
        raise ConfigError(
            f"hardware.rollout_tensor_parallel = {hardware.rollout_tensor_parallel} must divide the "
            f"{devices} devices (hardware.gpus * hardware.nodes)"
        )
    if hardware.device == "cuda" and hardware.ray_address is None and visible_gpus() < hardware.gpus:
        raise ConfigError(
            f"hardware.gpus = {hardware.gpus}, and this machine shows {visible_gpus()} NVIDIA GPUs; "
            "hardware.device: cpu runs without, hardware.ray_address names a cluster"
        )


def visible_gpus() -> int:
    """NVIDIA GPUs of this machine that `CUDA_VISIBLE_DEVICES` leaves visible."""
    present = len(glob.glob("/dev/nvidia[0-9]*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, len([part for part in chosen.split(",") if part.strip()]))


def _check_memory(config: MergeConfig, models: dict[str, ModelFingerprint]) -> int | None:
    """Estimated main memory of a run on the CPU, in bytes; raises ConfigError if it is not there."""
    if config.hardware.device != "cpu":
        return None
    import psutil

    student, built = models["student"].parameters, list(built_parameters(config, models).values())
    a_parameter = CPU_TRAINING_BYTES * config.hardware.gpus
    merging = a_parameter * student + 4 * scored_parameters(config, models)  # the scorer reads float32
    largest = max([student, *built])
    # a baseline made of weights holds base and experts, in float32 its result and the magnitudes of one
    weights = 4 * student * (len(config.domains) + 3) if config.weight_baselines() else 0
    needed = CPU_PROCESSES_BYTES + max(merging, a_parameter * largest, weights)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ConfigError(
            f"memory: about {needed / GIB:.1f} GiB needed ({largest / 1e6:.1f}M parameters trained, "
            f"{len(config.domains)} teachers and the reference scored), {available / GIB:.1f} GiB available"
        )
    return needed


def _check_disk(config: MergeConfig, models: dict[str, ModelFingerprint], run_dir: Path) -> int:
    """Estimated disk space in bytes; raises ConfigError if the run folder's disk has less."""
    student = models["student"].parameters
    trained = student * (1 + len(config.trained_baselines()))
    trained += sum(built_parameters(config, models).values())
    exported = trained + student * len(config.weight_baselines())
    exported += student * sum(isinstance(domain.expert, AdapterExpert) for domain in config.domains.values())
    # a new checkpoint is written before the old one is removed
    needed = 2 * CHECKPOINT_BYTES * trained + 4 * exported + GIB // 4
    folder = Path(run_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"run folder {run_dir}: about {needed / GIB:.1f} GiB of disk needed, {free / GIB:.1f} GiB free"
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"run folder {run_dir}: {folder} is not writable")
    return needed
