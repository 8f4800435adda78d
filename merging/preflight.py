"""Everything that can be refused before Ray starts, in one pass; each problem is one message."""

from __future__ import annotations

import glob
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.experts import AdapterExpert, ModelExpert, RLExpert
from configs.load import ConfigError, LoadedConfig
from configs.objective import ModelReference
from configs.schema import MergeConfig
from merging.adapters import adapter_experts, adapter_parameters
from merging.lengths import longest_prompts
from merging.lock import check_free
from merging.names import REFERENCE
from routing.overlap import Overlap
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
    """Of `student`, of each domain whose expert is the user's own model or adapter, and of references of
    their own (`reference`, `base of <domain>`)."""
    routed: list[RoutedPrompt]
    """All prompts, before balancing."""
    duplicates: int
    """Rows dropped as duplicates."""
    longest_prompt: dict[str, int]
    """Tokens of the longest prompt of each domain, chat template included."""
    overlaps: list[tuple[str, Overlap]]
    """Training prompts that repeat a problem of the named benchmark."""
    memory_bytes: int | None
    """Estimated peak of main memory on this machine; None where the work is on GPUs."""
    disk_bytes: int
    """Estimated need of disk space."""

    @property
    def notes(self) -> list[str]:
        """What the user should know although nothing is refused."""
        notes = [f"{self.duplicates} duplicate prompts dropped"] if self.duplicates else []
        for benchmark, count in Counter(name for name, _ in self.overlaps).items():
            first = next(overlap for name, overlap in self.overlaps if name == benchmark)
            notes.append(
                f"{count} training prompts repeat problems of benchmark {benchmark} "
                f"(first: {first.prompt.where}, {first.kind}); its scores may be inflated"
            )
        return notes

    def with_folders(self, config: MergeConfig) -> MergeConfig:
        """The config with every model given by its folder, as trainer and evaluation need it."""
        domains = dict(config.domains)
        for name, domain in domains.items():
            if isinstance(domain.expert, ModelExpert | AdapterExpert):
                paths = {"path": self.fingerprints[name].path}
                if getattr(domain.expert, "base", None) is not None:
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
        """Prompts of each domain, before balancing."""
        return dict(Counter(item.domain for item in self.routed))


def preflight(loaded: LoadedConfig, run_dir: Path) -> Preflight:
    """Check a config against this machine; raises ConfigError with every problem found.

    Reads models' files, prompts and benchmark files; starts nothing and writes nothing.
    """
    from routing import routers, sources
    from teachers.fingerprint import resolve_model

    config = loaded.config
    problems: list[str] = []
    with _collect(problems):
        check_free(run_dir)
    with _collect(problems):
        _check_devices(config)
    fingerprints = _models(config, problems)
    routed: list[RoutedPrompt] = []
    duplicates = 0
    with _collect(problems):
        prompts = sources.collect_prompts(config)
        duplicates = prompts.duplicates
        routed = routers.route(prompts.prompts, config.routing, list(config.domains))
        _check_answers(config, routed)
    overlaps = _benchmarks(config, routed, problems)
    longest: dict[str, int] = {}
    student = fingerprints.get("student")
    memory, disk = None, 0
    if student:
        with _collect(problems):
            _check_estimator(config, student)
        with _collect(problems):
            _check_template(student)
            longest = _prompt_tokens(routed, Path(student.path), config)
        with _collect(problems):
            memory = _check_memory(config, fingerprints)
        with _collect(problems):
            disk = _check_disk(config, student, run_dir)
    if problems:
        raise ConfigError(*problems)
    return Preflight(
        resolve_model(config.student), fingerprints, routed, duplicates, longest, overlaps, memory, disk
    )


@contextmanager
def _collect(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems += error.problems


# ------------------------------------------------------------------------------------------- models


def base_key(domain: str) -> str:
    """Key of the fingerprint of the model that a domain's expert was before its reinforcement learning."""
    return f"base of {domain}"


def _references(config: MergeConfig) -> dict[str, tuple[str, str]]:
    """References that are not the student: key to place in the config and path."""
    if isinstance(config.objective.reference, ModelReference):
        return {REFERENCE: ("objective.reference", config.objective.reference.path)}
    return {
        base_key(name): (f"domains.{name}.expert.base", domain.expert.base)
        for name, domain in config.domains.items()
        if isinstance(domain.expert, ModelExpert) and domain.expert.base is not None
    }


def _models(config: MergeConfig, problems: list[str]) -> dict[str, ModelFingerprint]:
    """Fingerprints of student, experts and references; what is wrong with them goes to `problems`."""
    from teachers import fingerprint as fp

    models = {"student": ("student", config.student)}
    for name, domain in config.domains.items():
        if isinstance(domain.expert, ModelExpert):
            models[name] = (f"domains.{name}.expert", domain.expert.path)
    references = _references(config)
    models |= references
    found: dict[str, ModelFingerprint] = {}
    for key, (place, path) in models.items():
        try:
            found[key] = fp.fingerprint(path)
        except ConfigError as error:
            problems += [f"{place}: {problem}" for problem in error.problems]
    rl = [domain.expert for domain in config.domains.values() if isinstance(domain.expert, RLExpert)]
    own = [expert.max_response_tokens for expert in rl if expert.max_response_tokens]
    longest = max(config.training.max_response_tokens, config.evaluation_tokens(), *own)
    for key, model in found.items():
        place = models[key][0]
        with _collect(problems):
            fp.check_vocabulary(model, place)
        with _collect(problems):
            fp.check_context(model, config.training.max_prompt_tokens, longest, place)
        if key != "student" and "student" in found:
            check = fp.check_reference if key in references else fp.check_compatible
            with _collect(problems):
                check(found["student"], model, place)
    if "student" in found:
        with _collect(problems):
            found |= adapter_experts(config, found["student"])
        with _collect(problems):
            _check_average(config, found)
    return found


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


def _check_average(config: MergeConfig, models: dict[str, ModelFingerprint]) -> None:
    """The mean of weights needs tensors of the same names and shapes."""
    if "average" not in config.baselines:
        return
    student = models["student"]
    for name, model in models.items():
        if name not in config.domains:
            continue
        known = None not in (student.shapes_sha256, model.shapes_sha256)
        if known and model.shapes_sha256 != student.shapes_sha256:
            raise ConfigError(
                f"baselines: `average` needs experts of the student's shape, and domains.{name}.expert "
                f"({model.path}) has other tensors; leave `average` out (baselines: [])"
            )


# ------------------------------------------------------------------------------ prompts, benchmarks


def _check_answers(config: MergeConfig, routed: Sequence[RoutedPrompt]) -> None:
    """An expert that is trained here needs an answer to every prompt of its domain."""
    for item in routed:
        if item.prompt.answer is None and isinstance(config.domains[item.domain].expert, RLExpert):
            raise ConfigError(
                f"{item.prompt.where}: no answer, and reward {config.domains[item.domain].reward!r} needs "
                f"one to train the expert of domain {item.domain!r}"
            )


def _check_template(student: ModelFingerprint) -> None:
    if student.chat_template_sha256 is None:
        raise ConfigError(f"student ({student.path}): has no chat template, so it cannot be prompted")


def _prompt_tokens(routed: Sequence[RoutedPrompt], student: Path, config: MergeConfig) -> dict[str, int]:
    """Tokens of each domain's longest prompt; raises ConfigError, one message a domain, above the limit."""
    limit = config.training.max_prompt_tokens
    longest = longest_prompts(routed, student, config.chat_template)
    over = [
        f"{item.prompt.where}: the prompt has {tokens} tokens with the chat template (the longest of domain "
        f"{domain!r}), above training.max_prompt_tokens = {limit}"
        for domain, (tokens, item) in longest.items()
        if tokens > limit
    ]
    if over:
        raise ConfigError(*over)
    return {domain: tokens for domain, (tokens, _) in longest.items()}


def _benchmarks(
    config: MergeConfig, routed: Sequence[RoutedPrompt], problems: list[str]
) -> list[tuple[str, Overlap]]:
    """Open every benchmark, and compare its problems with the training prompts."""
    from routing import overlap

    names: list[str] = []
    problem_texts: list[str] = []
    for domain_name, domain in config.domains.items():
        for position, benchmark in enumerate(domain.benchmarks):
            try:
                texts = _problem_texts(benchmark)
            except ConfigError as error:
                place = f"domains.{domain_name}.benchmarks[{position}]"
                problems += [f"{place}: {problem}" for problem in error.problems]
                continue
            names += [benchmark.name] * len(texts)
            problem_texts += texts
    found = overlap.check([item.prompt for item in routed], problem_texts)
    return [(names[item.problem], item) for item in found]


def _problem_texts(benchmark) -> list[str]:
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
    return ["\n".join(m["content"] for m in p.messages if m["role"] == "user") for p in task.problems]


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

    student = models["student"].parameters
    own = {name: models[name].parameters for name in config.domains if name in models}
    own |= adapter_parameters(config, models)
    # the reference and every teacher, in float32
    scored = student + sum(own.get(name, student) for name in config.domains)
    scored += sum(models[key].parameters for key in _references(config) if key in models)
    needed = CPU_PROCESSES_BYTES + CPU_TRAINING_BYTES * student * config.hardware.gpus + 4 * scored
    available = psutil.virtual_memory().available
    if needed > available:
        raise ConfigError(
            f"memory: about {needed / GIB:.1f} GiB needed ({student / 1e6:.1f}M parameters trained, "
            f"{len(config.domains)} teachers and the reference scored), {available / GIB:.1f} GiB available"
        )
    return needed


def _check_disk(config: MergeConfig, student: ModelFingerprint, run_dir: Path) -> int:
    """Estimated disk space in bytes; raises ConfigError if the run folder's disk has less."""
    trainings = 1 + ("opd" in config.baselines)
    trainings += sum(isinstance(domain.expert, RLExpert) for domain in config.domains.values())
    exports = trainings + ("average" in config.baselines)
    exports += sum(isinstance(domain.expert, AdapterExpert) for domain in config.domains.values())
    # a new checkpoint is written before the old one is removed
    needed = student.parameters * (2 * CHECKPOINT_BYTES * trainings + 4 * exports) + GIB // 4
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
