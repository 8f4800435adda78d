"""Every model on every benchmark: answers, verdicts, and a cache that knows what they depend on.

One file of samples for each (model, benchmark), `<samples_dir>/<model>/<benchmark>.jsonl`, with a sidecar
`<benchmark>.key.json`. The sidecar holds two keys: `generation`, a digest of all that changes the
answers, and `grading`, a digest of all that changes the verdicts. Samples whose `generation` key is right
are not generated again, and are graded again only if `grading` differs or a verdict is missing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from configs.benchmarks import Benchmark
from configs.schema import Evaluation, Hardware
from eval.benchmarks import BenchmarkTask, open_benchmark
from eval.engine_weights import ENGINE_FILES
from eval.generate import Generator
from eval.generation_worker import DTYPES
from eval.model_folders import context_length, resolve_model
from eval.records import Completion, Problem, Sample, Verdict, read_samples, write_samples

Progress = Callable[[str, str, int, int], None]

GENERATION_PACKAGES = ("vllm", "transformers", "tokenizers")
GRADING_PACKAGES = (
    "math-verify", "latex2sympy2-extended", "evalplus", "regex", "jsonschema", "reasoning-gym",
)  # fmt: skip

TEMPLATE_TOKENS = 1024
"""More than a chat template adds to a conversation's text."""


@dataclass(frozen=True)
class ModelUnderTest:
    """A model to evaluate."""

    name: str
    """Names its folder of samples, so it must be unique and a plain file name."""
    path: str | Path
    """Model folder with safetensors, or hub name."""
    role: Literal["base", "teacher", "student", "baseline"]
    domain: str | None = None
    """The teacher's domain; None for the others."""


@dataclass(frozen=True)
class _Job:
    """One model on one benchmark."""

    model: ModelUnderTest
    folder: Path
    task: BenchmarkTask
    generation_key: str
    grading_key: str
    settings: Evaluation
    places: tuple[Path, ...]
    """Files to find the samples in, best first, and to write them to."""

    @property
    def id(self) -> tuple[str, str]:
        return self.model.name, self.task.name


def evaluate(
    models: Sequence[ModelUnderTest],
    benchmarks: Sequence[tuple[str, Benchmark]],
    settings: Evaluation,
    max_tokens: int,
    hardware: Hardware,
    samples_dir: Path,
    on_progress: Progress,
    cache_dir: Path | None = None,
    chat_template: Mapping[str, Any] | None = None,
    make_generator: Callable[..., Generator] = Generator,
) -> dict[tuple[str, str], list[Sample]]:
    """Samples of every (model name, benchmark name), in the order of the arguments.

    A list holds, problem by problem, the greedy answer if `settings.greedy`, then the sampled ones.
    Every model answers under the same limit: `max_tokens`, or what the shortest context among the models
    leaves after the prompt. Generation uses this machine's `hardware.gpus` devices (one process on a
    CPU); the grading of a benchmark runs in a thread during the generation of the next.

    on_progress: called in this thread with model, benchmark, answers so far and answers wanted.
    cache_dir: samples shared between runs, by key; None shares nothing.
    chat_template: arguments of the models' chat templates.
    make_generator: what to construct in place of `Generator`, with its arguments.

    Raises ConfigError for a model that cannot be evaluated or a benchmark that cannot be opened, and
    RuntimeError if generation fails; what was answered by then is kept.
    """
    assert len({model.name for model in models}) == len(models), "model names must be unique"
    tasks = [open_benchmark(config) for _domain, config in benchmarks]
    folders = {model.name: resolve_model(str(model.path)) for model in models}
    contexts = [context_length(folder) for folder in folders.values()]
    shortest_context = min((context for context in contexts if context is not None), default=None)
    template = dict(chat_template or {})
    make_job = partial(_job, max_tokens=max_tokens, hardware=hardware, template=template)
    asked = [_asked(config, settings) for _domain, config in benchmarks]
    results: dict[tuple[str, str], Future[list[Sample]] | list[Sample]] = {}
    with ThreadPoolExecutor(max_workers=1) as grader:
        lengths = [_longest_sequence(task, max_tokens, shortest_context) for task in tasks]
        with make_generator(
            device=hardware.device,
            devices=hardware.gpus if hardware.device == "cuda" else 1,
            max_model_len=max(lengths, default=max_tokens),
            log_path=Path(samples_dir) / "generation.log",
            tensor_parallel=hardware.rollout_tensor_parallel if hardware.device == "cuda" else 1,
            chat_template=template,
        ) as generator:
            for model in models:
                for task, own in zip(tasks, asked, strict=True):
                    job = make_job(
                        model, folders[model.name], task, own, shortest_context, samples_dir, cache_dir
                    )
                    results[job.id] = _run(job, generator, grader, max_tokens, on_progress)
                    _raise_failures(results)
        return {id: _finished(result) for id, result in results.items()}


def _run(
    job: _Job,
    generator: Generator,
    grader: ThreadPoolExecutor,
    max_tokens: int,
    on_progress: Progress,
) -> Future[list[Sample]] | list[Sample]:
    """The job's samples if they are stored, else the promise of them, answers generated."""
    total = len(job.task.problems) * _answers_per_problem(job.settings)
    stored = _find(job)
    if stored is not None:
        samples, graded = stored
        on_progress(*job.id, total, total)
        if not graded:
            return grader.submit(_grade_and_store, job, samples)
        return samples
    on_progress(*job.id, 0, total)
    samples = _generate(job, generator, max_tokens, lambda done: on_progress(*job.id, done, total))
    # Stored at once, so that answers outlive a failure of their grading.
    _store(job.places[0], job, samples)
    return grader.submit(_grade_and_store, job, samples)


def _raise_failures(results: dict[tuple[str, str], Future[list[Sample]] | list[Sample]]) -> None:
    """Let a failed grading end the evaluation at once."""
    for result in results.values():
        if isinstance(result, Future) and result.done():
            result.result()


def _finished(result: Future[list[Sample]] | list[Sample]) -> list[Sample]:
    return result.result() if isinstance(result, Future) else result


# ---------------------------------------------------------------------------------------- answers


def _asked(benchmark: Benchmark, settings: Evaluation) -> Evaluation:
    """The settings with the number of answers that the benchmark itself asks for."""
    own = benchmark.samples_per_problem
    return settings if own is None else settings.model_copy(update={"samples_per_problem": own})


def _answers_per_problem(settings: Evaluation) -> int:
    return settings.samples_per_problem + settings.greedy


def _generate(
    job: _Job, generator: Generator, max_tokens: int, on_progress: Callable[[int], None]
) -> list[Sample]:
    """All answers of the job, not yet graded."""
    problems, settings = job.task.problems, job.settings
    ask = partial(
        generator.generate,
        job.folder,
        problems,
        temperature=settings.temperature,
        seed=settings.seed,
        max_tokens=max_tokens,
    )
    greedy = ask(mode="greedy", n=1, on_progress=on_progress) if settings.greedy else {}
    sampled = ask(
        mode="sampled",
        n=settings.samples_per_problem,
        on_progress=lambda done: on_progress(len(greedy) + done),
    )
    return [
        _sample(job, problem, mode, index, completion)
        for problem in problems
        for mode, answers in (("greedy", greedy), ("sampled", sampled))
        for index, completion in enumerate(answers.get(problem.id, []))
    ]


def _sample(job: _Job, problem: Problem, mode: str, index: int, completion: Completion) -> Sample:
    return Sample(
        benchmark=job.task.name,
        problem_id=problem.id,
        mode=mode,
        index=index,
        prompt=problem.messages,
        completion=completion.text,
        tokens=completion.tokens,
        finished=completion.finished,
        verdict=Verdict.UNSCORED,
        detail="not graded",
    )


def _grade_and_store(job: _Job, samples: list[Sample]) -> list[Sample]:
    problems = {problem.id: problem for problem in job.task.problems}
    answers = [
        (problems[sample.problem_id], Completion(sample.completion, sample.tokens, sample.finished))
        for sample in samples
    ]
    grades = job.task.grade(answers)
    graded = [
        replace(sample, verdict=grade.verdict, detail=grade.detail)
        for sample, grade in zip(samples, grades, strict=True)
    ]
    for place in job.places:
        _store(place, job, graded)
    return graded


# ------------------------------------------------------------------------------------------ cache


def _find(job: _Job) -> tuple[list[Sample], bool] | None:
    """Stored samples of the job and whether their verdicts hold; copied to the places that lack them."""
    candidates = [(place, _read(place, job)) for place in job.places]
    usable = [(place, stored) for place, stored in candidates if stored is not None]
    if not usable:
        return None
    samples, graded = max((stored for _place, stored in usable), key=lambda stored: stored[1])
    if graded:
        for place, stored in candidates:
            if stored is None or not stored[1]:
                _store(place, job, samples)
    return samples, graded


def _read(place: Path, job: _Job) -> tuple[list[Sample], bool] | None:
    """Samples in `place` if they are those of the job, and whether all of them are graded as now."""
    try:
        sidecar = json.loads(_sidecar(place).read_text())
        if sidecar["generation"] != job.generation_key or sidecar["samples"] != _digest_file(place):
            return None
        samples = read_samples(place)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    scored = all(sample.verdict != Verdict.UNSCORED for sample in samples)
    return samples, scored and sidecar["grading"] == job.grading_key


def _store(place: Path, job: _Job, samples: list[Sample]) -> None:
    """Write samples, then the sidecar that declares them valid, which also names their bytes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write_samples(place, samples)
    sidecar = {
        "generation": job.generation_key,
        "grading": job.grading_key,
        "samples": _digest_file(place),
    }
    temporary = _sidecar(place).with_name(f".{_sidecar(place).name}.{os.getpid()}")
    temporary.write_text(json.dumps(sidecar, indent=1) + "\n")
    os.replace(temporary, _sidecar(place))


def _sidecar(place: Path) -> Path:
    return place.with_name(place.name.removesuffix(".jsonl") + ".key.json")


def _job(
    model: ModelUnderTest,
    folder: Path,
    task: BenchmarkTask,
    settings: Evaluation,
    shortest_context: int | None,
    samples_dir: Path,
    cache_dir: Path | None,
    *,
    max_tokens: int,
    hardware: Hardware,
    template: Mapping[str, Any],
) -> _Job:
    longest = _longest_sequence(task, max_tokens, None)
    is_limited = shortest_context is not None and shortest_context < longest
    generation_key = _digest(
        {
            "model": model_digest(folder),
            "benchmark": [task.name, task.digest],
            "chat_template": template,
            "sampling": [settings.greedy, settings.samples_per_problem, settings.temperature, settings.seed],
            "max_tokens": max_tokens,
            "context": shortest_context if is_limited else None,
            "device": [hardware.device, DTYPES[hardware.device]],
            "tensor_parallel": hardware.rollout_tensor_parallel if hardware.device == "cuda" else 1,
            "versions": _versions(GENERATION_PACKAGES),
            "code": _code_digest("generate.py", "generation_worker.py", "engine_weights.py"),
        }
    )
    grading_key = _digest(
        {
            "benchmark": [task.name, task.digest],
            "versions": _versions(GRADING_PACKAGES),
            "code": _code_digest("*.py", "benchmarks/**/*.py"),
        }
    )
    places = [Path(samples_dir) / model.name / f"{task.name}.jsonl"]
    if cache_dir is not None:
        places.append(Path(cache_dir) / f"{generation_key}.jsonl")
    return _Job(model, folder, task, generation_key, grading_key, settings, tuple(places))


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Installed versions, None for a package that is not installed."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _code_digest(*patterns: str) -> str:
    """Digest of our own files of this package that match."""
    here = Path(__file__).resolve().parent
    files = sorted({file for pattern in patterns for file in here.glob(pattern)})
    return _digest([[str(file.relative_to(here)), _digest_file(file)] for file in files])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ----------------------------------------------------------------------------------------- models


def model_digest(folder: Path) -> str:
    """Digest of all that makes a model answer as it does: weights, config, tokenizer, chat template."""
    names = ("config.json", *ENGINE_FILES)
    files = [*sorted(folder.glob("*.safetensors")), *(folder / n for n in names if (folder / n).is_file())]
    stats = [(file, file.stat()) for file in files]
    return _digest([[f.name, _cached_digest(f, s.st_size, s.st_mtime_ns, s.st_ino)] for f, s in stats])


@cache
def _cached_digest(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """Weights are read once a process; a file that was written anew has other statistics."""
    return _digest_file(path)


def _longest_sequence(task: BenchmarkTask, max_tokens: int, context: int | None) -> int:
    """Upper limit of prompt and answer in tokens: a token is at least one byte of the text."""
    prompt_bytes = [
        sum(len(message["content"].encode()) for message in problem.messages) for problem in task.problems
    ]
    longest = max(prompt_bytes, default=0) + TEMPLATE_TOKENS + max_tokens
    return longest if context is None else min(longest, context)
