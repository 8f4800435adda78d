"""What the benchmarks ask, and whether training prompts ask the same."""

from __future__ import annotations

from common.errors import ConfigError
from configs.blocks.benchmarks import Benchmark
from configs.prompt_mode import PromptMode
from configs.schema import MergeConfig
from merging.checks.found import Preflight, needs_student
from merging.checks.models import collecting
from routing.kept import BenchmarkProblem
from routing.lengths import longest_prompts
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt


def benchmarks(found: Preflight) -> Preflight:
    """Refuses benchmarks that cannot be opened."""
    asked: list[BenchmarkProblem] = []
    problems: list[str] = []
    modes = found.config.prompt_modes()
    for name, domain in found.config.domains.items():
        for position, benchmark in enumerate(domain.benchmarks):
            with collecting(problems, f"domains.{name}.benchmarks[{position}]"):
                asked += _problems_of(benchmark, modes[name])
    return found.refusing(*problems, asked=tuple(asked))


@needs_student
def problem_lengths(found: Preflight) -> None:
    """Refuses benchmarks with a problem that leaves no room for an answer in a model's context."""
    known = {name: model.max_position_embeddings for name, model in found.fingerprints.items()}
    limits = {name: limit for name, limit in known.items() if limit is not None}
    if not limits or not found.asked:
        return
    shortest = min(limits, key=limits.__getitem__)
    asked = [_as_prompt(problem, row) for row, problem in enumerate(found.asked, 1)]
    modes = found.config.prompt_modes()
    own = {
        benchmark.name: [modes[name]]
        for name, domain in found.config.domains.items()
        for benchmark in domain.benchmarks
    }
    longest = longest_prompts(asked, found.student, own)
    problems = [
        f"benchmark {name}: problem {item.prompt.id!r} has {tokens} tokens, and the context of {shortest} is "
        f"{limits[shortest]}: no answer fits; leave such problems out (`limit`, or another file)"
        for name, (tokens, item) in longest.items()
        if tokens >= limits[shortest]
    ]
    if problems:
        raise ConfigError(*problems)


def _as_prompt(problem: BenchmarkProblem, row: int) -> RoutedPrompt:
    """A problem as prompts are measured; its domain is its benchmark."""
    messages = ({"role": "user", "content": problem.text},)
    source = f"benchmark {problem.benchmark}"
    return RoutedPrompt(Prompt(problem.id, messages, None, None, source, row), problem.benchmark, "")


def repeats(found: Preflight) -> Preflight:
    """Refuses prompts that repeat a benchmark's problem, with `overlap.action: refuse`."""
    return found.without_repeats(found.asked, endings(found.config), found.config.overlap)


def endings(config: MergeConfig) -> list[str]:
    """Instructions after the text of prompts and problems, which are no part of the question."""
    from eval.benchmarks.math_task import BOX_INSTRUCTION

    sources = [config.prompts]
    for domain in config.domains.values():
        sources += [domain.prompts, domain.validation]
    benchmarks = [benchmark for domain in config.domains.values() for benchmark in domain.benchmarks]
    suffixes = [source.suffix for source in sources if source is not None]
    suffixes += [getattr(benchmark, "suffix", "") for benchmark in benchmarks]
    return [BOX_INSTRUCTION, *filter(None, suffixes)]


def _problems_of(benchmark: Benchmark, mode: PromptMode) -> list[BenchmarkProblem]:
    """What the benchmark's problems ask; raises ConfigError if it cannot be opened, or asked in this mode."""
    if benchmark.path is not None and not benchmark.path.exists():
        raise ConfigError(f"{benchmark.path}: no such benchmark file")
    from eval.benchmarks import open_benchmark

    try:
        task = open_benchmark(benchmark).asked_in(mode)
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
