"""Every model on every benchmark: answers, verdicts, and a cache that knows what they depend on.

Samples whose `generation` key is right (`eval.jobs`) are not generated again, and are graded again only if
`grading` differs or a verdict is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.blocks.benchmarks import Benchmark
from configs.prompt_mode import PromptMode
from configs.schema import Evaluation, Hardware
from eval.generation.generate import Generator, placed_on
from eval.jobs import Job, ModelUnderTest, all_jobs, find_samples, store_samples, there
from eval.records import Completion, Mode, Problem, Sample, Verdict

Answers = dict[str, list[Completion]]
"""By the problem's id."""

Progress = Callable[[str, str, int, int], None]


def evaluate(
    models: Sequence[ModelUnderTest],
    benchmarks: Sequence[tuple[str, Benchmark]],
    settings: Evaluation,
    max_tokens: int,
    hardware: Hardware,
    samples_dir: Path,
    on_progress: Progress,
    cache_dir: Path | None = None,
    modes: Mapping[str, PromptMode] | None = None,
    make_generator: Callable[..., Generator] = Generator,
) -> dict[tuple[str, str], list[Sample]]:
    """Samples of every (model name, benchmark name), in the order of the arguments.

    A list holds, problem by problem, the greedy answer if `settings.greedy`, then the sampled ones.
    Every model answers under the same limit: `max_tokens`, or what the shortest context among the models
    leaves after the prompt. Generation uses all devices of `hardware`, those of a Ray cluster where it names
    one (one process on a CPU); the grading of a benchmark runs in a thread during the generation of the next.

    on_progress: called in this thread with model, benchmark, answers so far and answers wanted.
    cache_dir: samples shared between runs, by key; None shares nothing.
    modes: how the problems of each domain are asked; None asks them as they stand.
    make_generator: what to construct in place of `Generator`, with its arguments.

    Raises ConfigError for a model that cannot be evaluated or a benchmark that cannot be opened, and
    RuntimeError if generation fails; what was answered by then is kept.
    """
    jobs = all_jobs(models, benchmarks, settings, max_tokens, hardware, samples_dir, modes, cache_dir)
    results: dict[tuple[str, str], Future[list[Sample]] | list[Sample]] = {}
    with _one_thread() as grader:
        with make_generator(
            **placed_on(hardware),
            max_model_len=max((job.longest for job in jobs), default=max_tokens),
            log_path=Path(samples_dir) / "generation.log",
        ) as generator:
            for job in jobs:
                results[job.id] = _run(job, generator, grader, max_tokens, on_progress)
                _raise_failures(results)
        return {id: _finished(result) for id, result in results.items()}


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """Grades beside the generation. An interrupt does not wait for the grading, which may take minutes; any
    other error does: its verdicts are kept."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        yield pool
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown()
        raise
    pool.shutdown()


def _run(
    job: Job,
    generator: Generator,
    grader: ThreadPoolExecutor,
    max_tokens: int,
    on_progress: Progress,
) -> Future[list[Sample]] | list[Sample]:
    """The job's samples if they are stored, else the promise of them, answers generated."""
    total = len(job.task.problems) * _answers_per_problem(job.settings)
    stored = find_samples(job)
    if stored is not None:
        samples, graded = stored
        on_progress(*job.id, total, total)
        if not graded:
            return grader.submit(_grade_and_store, job, samples)
        return samples
    on_progress(*job.id, 0, total)
    samples = _generate(job, generator, max_tokens, lambda done: on_progress(*job.id, done, total))
    # Stored at once, so that answers outlive a failure of their grading.
    store_samples(job.places[0], job, samples, grading_key=None)
    return grader.submit(_grade_and_store, job, samples)


def _raise_failures(results: dict[tuple[str, str], Future[list[Sample]] | list[Sample]]) -> None:
    """Let a failed grading end the evaluation at once."""
    for result in results.values():
        if isinstance(result, Future) and result.done():
            result.result()


def _finished(result: Future[list[Sample]] | list[Sample]) -> list[Sample]:
    return result.result() if isinstance(result, Future) else result


# ---------------------------------------------------------------------------------------- answers


def _answers_per_problem(settings: Evaluation) -> int:
    return settings.samples_per_problem + settings.greedy


def _generate(
    job: Job, generator: Generator, max_tokens: int, on_progress: Callable[[int], None]
) -> list[Sample]:
    """All answers of the job, not yet graded."""
    problems, settings = job.task.problems, job.settings
    served = job.model.served
    if served is not None:
        answer: Callable[..., Answers] = partial(
            served.generate, max_model_len=job.longest, chat_template=job.chat_template
        )
    else:
        generator.chat_template = job.chat_template  # of the requests that follow
        answer = partial(generator.generate, there(job.folder))
    ask = partial(
        answer,
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
    by_mode: dict[Mode, Answers] = {"greedy": greedy, "sampled": sampled}
    return [
        _sample(job, problem, mode, index, completion)
        for problem in problems
        for mode, answers in by_mode.items()
        for index, completion in enumerate(answers.get(problem.id, []))
    ]


def _sample(job: Job, problem: Problem, mode: Mode, index: int, completion: Completion) -> Sample:
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


def _grade_and_store(job: Job, samples: list[Sample]) -> list[Sample]:
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
        store_samples(place, job, graded, job.grading_key)
    return graded
