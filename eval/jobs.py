"""One model on one benchmark: what its answers and verdicts depend on, and where they are kept.

One file of samples for each (model, benchmark), `<samples_dir>/<model>/<benchmark>.jsonl`, with a sidecar
`<benchmark>.key.json`. The sidecar holds two keys: `generation`, a digest of all that changes the
answers, and `grading`, a digest of all that changes the verdicts (null before any are given).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from common.digests import file_sha256, installed_version, json_sha256
from common.errors import ConfigError
from common.files import write_json
from common.reading import read_json
from configs.blocks.benchmarks import Benchmark
from configs.prompt_mode import PLAIN, PromptMode
from configs.schema import Evaluation, Hardware
from eval.benchmarks import BenchmarkTask, open_benchmark
from eval.generation.model_folders import context_length, evaluated_model, model_digest
from eval.generation.worker import DTYPES
from eval.records import Completion, Mode, Problem, Sample, Verdict, is_asked, read_samples, write_samples

GENERATION_PACKAGES = ("vllm", "transformers", "tokenizers")
GRADING_PACKAGES = (
    "math-verify", "latex2sympy2-extended", "evalplus", "regex", "jsonschema", "reasoning-gym",
)  # fmt: skip

TEMPLATE_TOKENS = 1024
"""More than a chat template adds to a conversation's text."""


class Served(Protocol):
    """A model that answers elsewhere than in a worker of ours."""

    @property
    def digest(self) -> str:
        """Of all that changes its answers."""
        ...

    @property
    def context(self) -> int | None:
        """Longest prompt with its answer, in tokens; None where nobody knows."""
        ...

    def generate(
        self,
        problems: Sequence[Problem],
        *,
        mode: Mode,
        n: int,
        temperature: float,
        seed: int,
        max_tokens: int,
        max_model_len: int,
        chat_template: Mapping[str, Any],
        on_progress: Callable[[int], None],
    ) -> dict[str, list[Completion]]:
        """As `Generator.generate`, with these arguments of the chat template."""
        ...


@dataclass(frozen=True)
class ModelUnderTest:
    """A model to evaluate."""

    name: str
    """Names its folder of samples, so it must be unique and a plain file name."""
    path: str | Path | None
    """Model folder with safetensors, or hub name; None for one that is served."""
    role: Literal["base", "teacher", "student", "baseline"]
    domain: str | None = None
    """The domain of a teacher, or of a baseline that is about one domain alone; None for the others."""
    served: Served | None = None
    """Who answers for it where it has no folder."""

    def is_asked(self, domain: str) -> bool:
        """Whether it answers the benchmarks of this domain."""
        return is_asked(self.role, self.domain, domain)


@dataclass(frozen=True)
class Job:
    """One model on one benchmark."""

    model: ModelUnderTest
    folder: Path | None
    """The model's; None for one that is served."""
    task: BenchmarkTask
    """Its problems are as the model is asked them, system message included."""
    chat_template: Mapping[str, Any]
    """Arguments of the chat template."""
    generation_key: str
    grading_key: str
    settings: Evaluation
    longest: int
    """Upper limit of prompt and answer in tokens."""
    places: tuple[Path, ...]
    """Files to find the samples in, best first, and to write them to."""

    @property
    def id(self) -> tuple[str, str]:
        return self.model.name, self.task.name


def all_jobs(
    models: Sequence[ModelUnderTest],
    benchmarks: Sequence[tuple[str, Benchmark]],
    settings: Evaluation,
    max_tokens: int,
    hardware: Hardware,
    samples_dir: Path,
    modes: Mapping[str, PromptMode] | None = None,
    cache_dir: Path | None = None,
) -> list[Job]:
    """Every model on every benchmark that it is asked, in the mode of the benchmark's domain (`modes`, by
    default plain).

    Raises ConfigError for a model or a benchmark that is not there.
    """
    assert len({model.name for model in models}) == len(models), "model names must be unique"
    mode_of = {domain: PLAIN if modes is None else modes[domain] for domain, _ in benchmarks}
    tasks = [
        (domain, open_benchmark(config).asked_in(mode_of[domain]), _asked(config, settings))
        for domain, config in benchmarks
    ]
    folders = [None if model.served else evaluated_model(str(model.path)) for model in models]
    known = [_context(model, folder) for model, folder in zip(models, folders, strict=True)]
    contexts = [context for context in known if context is not None]
    shortest_context = min(contexts, default=None)

    def job(
        model: ModelUnderTest, folder: Path | None, task: BenchmarkTask, mode: PromptMode, asked: Evaluation
    ) -> Job:
        longest = _longest_sequence(task, max_tokens)
        limit = None if shortest_context is None or shortest_context >= longest else shortest_context
        benchmark = [task.name, task.digest]
        answers = {
            "model": _digest(model, folder),
            "benchmark": benchmark,
            "chat_template": dict(mode.chat_template),
            # only where there is one: other samples keep their keys
            **({"system_prompt": mode.system_prompt} if mode.has_system else {}),
            "sampling": [asked.greedy, asked.samples_per_problem, asked.temperature, asked.seed],
            "max_tokens": max_tokens,
            "context": limit,
            "device": [hardware.device, DTYPES[hardware.device]],
            "tensor_parallel": hardware.rollout_tensor_parallel if hardware.device == "cuda" else 1,
            "versions": installed_versions(GENERATION_PACKAGES),
            "code": _code_digest("generation/*.py"),
        }
        verdicts = {
            "benchmark": benchmark,
            "versions": installed_versions(GRADING_PACKAGES),
            "code": _code_digest("*.py", "benchmarks/**/*.py", "grading/*.py", "sandbox/*.py"),
        }
        key = json_sha256(answers)
        places = [Path(samples_dir) / model.name / f"{task.name}.jsonl"]
        places += [] if cache_dir is None else [Path(cache_dir) / f"{key}.jsonl"]
        longest = longest if limit is None else limit
        return Job(
            model, folder, task, mode.chat_template, key, json_sha256(verdicts), asked, longest, tuple(places)
        )

    pairs = zip(models, folders, strict=True)
    return [
        job(model, folder, task, mode_of[domain], asked)
        for model, folder in pairs
        for domain, task, asked in tasks
        if model.is_asked(domain)
    ]


def _context(model: ModelUnderTest, folder: Path | None) -> int | None:
    return model.served.context if model.served else context_length(there(folder))


def _digest(model: ModelUnderTest, folder: Path | None) -> str:
    return model.served.digest if model.served else model_digest(there(folder))


def there(folder: Path | None) -> Path:
    """The folder of a model that is not served."""
    assert folder is not None, "a model without a folder is served"
    return folder


def installed_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Installed versions, None for a package that is not installed."""
    return {package: installed_version(package) for package in packages}


def _code_digest(*patterns: str) -> str:
    """Digest of our own files of this package that match."""
    here = Path(__file__).resolve().parent
    files = sorted({file for pattern in patterns for file in here.glob(pattern)})
    return json_sha256([[str(file.relative_to(here)), file_sha256(file)] for file in files])


def _longest_sequence(task: BenchmarkTask, max_tokens: int) -> int:
    """Upper limit of prompt and answer in tokens: a token is at least one byte of the text."""
    prompt_bytes = [
        sum(len(message["content"].encode()) for message in problem.messages) for problem in task.problems
    ]
    return max(prompt_bytes, default=0) + TEMPLATE_TOKENS + max_tokens


def _asked(benchmark: Benchmark, settings: Evaluation) -> Evaluation:
    """The settings with the number of answers that the benchmark itself asks for."""
    own = benchmark.samples_per_problem
    return settings if own is None else settings.model_copy(update={"samples_per_problem": own})


# ---------------------------------------------------------------------------------------- samples


def find_samples(job: Job) -> tuple[list[Sample], bool] | None:
    """Stored samples of the job, and whether all are judged as now; copied to the places that lack them."""
    found = {place: stored for place in job.places if (stored := _read(place, job)) is not None}
    judged = {place for place, (samples, graded) in found.items() if graded and _all_scored(samples)}
    if not judged:
        return next(((samples, False) for samples, _ in found.values()), None)
    samples = next(found[place][0] for place in job.places if place in judged)
    for place in job.places:
        if place not in judged:
            store_samples(place, job, samples, job.grading_key)
    return samples, True


def _all_scored(samples: Sequence[Sample]) -> bool:
    return all(sample.verdict != Verdict.UNSCORED for sample in samples)


def _read(place: Path, job: Job) -> tuple[list[Sample], bool] | None:
    """Samples in `place` if they are those of the job, and whether they were graded as now."""
    try:
        key = read_key(place)
        if key.generation != job.generation_key or key.samples != file_sha256(place):
            return None
        samples = read_samples(place)
    except (OSError, ConfigError):
        return None
    return samples, key.grading == job.grading_key


class Key(BaseModel):
    """What a sidecar declares of the samples beside it."""

    generation: str
    grading: str | None
    samples: str
    """SHA-256 of their file."""


def read_key(place: Path) -> Key:
    """The sidecar of a file of samples; raises ConfigError where there is none, or it is damaged."""
    return read_json(sidecar_of(place), Key, "what samples were made with")


def store_samples(place: Path, job: Job, samples: list[Sample], grading_key: str | None) -> None:
    """Write samples, then the sidecar that declares them valid, which also names their bytes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write_samples(place, samples)
    sidecar = {
        "generation": job.generation_key,
        "grading": grading_key,
        "samples": file_sha256(place),
    }
    write_json(sidecar_of(place), sidecar)


def sidecar_of(place: Path) -> Path:
    """The file beside a file of samples that says what they were made with."""
    return place.with_name(place.name.removesuffix(".jsonl") + ".key.json")


def stored_samples(jobs: Sequence[Job]) -> dict[tuple[str, str], list[Sample]]:
    """What `eval.suite.evaluate` would return for these jobs, from the first place of each alone.

    Raises ConfigError, one message, where samples are missing, or of other settings, files or versions.
    """
    found = {job.id: _read(job.places[0], job) for job in jobs}
    missing = [job.id for job in jobs if not job.places[0].exists()]
    stale = [id for id, stored in found.items() if id not in missing and not (stored and stored[1])]
    problems = [f"no samples for {_names(missing)}"] * bool(missing)
    if stale:
        problems.append(f"samples for {_names(stale)} were made with other settings, files or versions")
    if problems:
        raise ConfigError("; ".join(problems))
    return {id: stored[0] for id, stored in found.items() if stored is not None}


def _names(ids: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{model} on {benchmark}" for model, benchmark in ids)
