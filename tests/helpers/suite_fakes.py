"""A benchmark and a generator without a model behind them, for tests of `eval.suite`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.blocks.benchmarks import MathBenchmark
from configs.prompt_mode import PromptMode
from configs.schema import Evaluation, Hardware
from eval import jobs, suite
from eval.benchmarks import BenchmarkTask
from eval.records import Completion, Grade, Problem, Sample, Verdict


class Bench:
    """One model, one benchmark of three problems, and everything that a test may change about them.

    `modes` are those of the benchmarks' domains, of which there is one, `maths`; `asked` holds arguments of
    the chat template and messages of each problem that was asked, in order.
    `generated` counts calls of the generator, `graded` calls of the grader, `generators` keeps the
    arguments of every constructed generator, `events` what happened in which order.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.model = self.make_model("model")
        self.samples = folder / "samples"
        self.cache: Path | None = None
        self.digest = "problems"
        self.max_tokens = 16
        self.settings = Evaluation(samples_per_problem=2)
        self.samples_of: dict[str, int] = {}
        self.hardware = Hardware(device="cpu")
        self.versions: dict[str, str] = {}
        self.verdict: Verdict | Exception = Verdict.PASS
        self.before_grading: Callable[[str], None] = lambda name: None
        self.problems = [
            Problem(f"p{i}", ({"role": "user", "content": f"question {i}"},), str(i)) for i in range(3)
        ]
        self.modes: dict[str, PromptMode] | None = None
        self.asked: list[tuple[dict[str, Any], list[dict[str, str]]]] = []
        self.generated = self.graded = 0
        self.generators: list[dict[str, Any]] = []
        self.events: list[tuple] = []
        monkeypatch.setattr(jobs, "open_benchmark", self.open_benchmark)
        monkeypatch.setattr(
            jobs, "installed_versions", lambda packages: {p: self.versions.get(p, "1") for p in packages}
        )

    def set(self, **settings: Any) -> None:
        self.settings = self.settings.model_copy(update=settings)

    def make_model(self, name: str, config: str = '{"max_position_embeddings": 8192}') -> Path:
        path = self.folder / name
        path.mkdir()
        (path / "config.json").write_text(config)
        (path / "tokenizer.json").write_text("{}")
        (path / "model.safetensors").write_bytes(b"weights A")
        return path

    def open_benchmark(self, config: MathBenchmark) -> BenchmarkTask:
        return BenchmarkTask(
            name=config.name,
            source="a fake",
            problems=self.problems,
            grade=lambda answers: self.grade(config.name, answers),
            digest=self.digest,
        )

    def grade(self, name: str, answers: list[tuple[Problem, Completion]]) -> list[Grade]:
        self.before_grading(name)
        self.graded += 1
        self.events.append(("graded", name))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return [Grade(self.verdict, f"expected {problem.reference}") for problem, _ in answers]

    def evaluate(
        self, names: tuple[str, ...] = ("bench",), extra: list[suite.ModelUnderTest] | None = None
    ) -> dict[tuple[str, str], list[Sample]]:
        asked = self.samples_of
        benchmarks = [
            (
                "maths",
                MathBenchmark(kind="math", name=n, path=Path("unused"), samples_per_problem=asked.get(n)),
            )
            for n in names
        ]
        return suite.evaluate(
            [suite.ModelUnderTest("m", self.model, "base"), *(extra or [])],
            benchmarks,
            self.settings,
            self.max_tokens,
            self.hardware,
            self.samples,
            lambda *progress: self.events.append(("progress", *progress)),
            cache_dir=self.cache,
            modes=self.modes,
            make_generator=lambda **arguments: FakeGenerator(self, arguments),
        )


class FakeGenerator:
    """Answers from the arguments alone, as the real one does."""

    def __init__(self, bench: Bench, arguments: dict[str, Any]) -> None:
        self.bench = bench
        self.chat_template: dict[str, Any] = {}
        bench.generators.append(arguments)

    def __enter__(self) -> FakeGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.bench.events.append(("closed",))

    def generate(
        self, model_path, problems, mode, n, temperature, seed, max_tokens, on_progress
    ) -> dict[str, list[Completion]]:
        self.bench.generated += 1
        self.bench.asked += [(dict(self.chat_template), list(problem.messages)) for problem in problems]
        self.bench.events.append(("generated", model_path.name, mode))
        on_progress(len(problems) * n)
        return {
            problem.id: [
                Completion(f"{mode} {problem.id} #{i} T={temperature} seed={seed}", max_tokens - i, i == 0)
                for i in range(n)
            ]
            for problem in problems
        }
