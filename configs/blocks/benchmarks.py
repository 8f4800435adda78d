"""Where models are compared, as declared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from configs.blocks.gym import GymTask
from configs.blocks.rewards import Grader
from configs.blocks.strict import Name, PositiveInt, Strict

BENCHMARKS = (
    "aime24",
    "aime25",
    "gsm8k",
    "hmmt25_feb",
    "hmmt25_nov",
    "humaneval_plus",
    "livecodebench_v6",
    "math500",
    "mbpp_plus",
)
"""Standard benchmarks that can be named without a block; `eval.benchmarks.STANDARD` implements them."""

StandardName = Literal[
    "aime24",
    "aime25",
    "gsm8k",
    "hmmt25_feb",
    "hmmt25_nov",
    "humaneval_plus",
    "livecodebench_v6",
    "math500",
    "mbpp_plus",
]

PROGRAM_FILES = {"greedy": ".evalplus", "sampled": ".evalplus.sampled"}
"""What the files of programs that a run exports add to a benchmark's name, by mode."""


class StandardBenchmark(Strict):
    """A published benchmark by name, optionally from a local file."""

    kind: Literal["standard"]
    name: StandardName
    path: Path | None = None
    """Local copy of its file; by default the benchmark's own source (hub or EvalPlus's download)."""
    limit: PositiveInt | None = None
    """Use only the first so many problems."""
    samples_per_problem: PositiveInt | None = None
    """Sampled answers to each problem; by default those of `evaluation`."""


class MathBenchmark(Strict):
    """The user's own problems with a final answer."""

    kind: Literal["math"]
    name: Name
    path: Path
    """`.jsonl` with one problem a line."""
    problem_field: str = "prompt"
    """Field with the problem's text."""
    answer_field: str = "answer"
    """Field with the expected answer."""
    grader: Literal["boxed", "number"] = "boxed"
    """`boxed`: the last \\boxed{} by math-verify; `number`: the last number in the answer."""
    suffix: str = ""
    """Text appended to every problem, such as the instruction to use \\boxed{}."""
    limit: PositiveInt | None = None
    """Use only the first so many problems."""
    samples_per_problem: PositiveInt | None = None
    """Sampled answers to each problem; by default those of `evaluation`."""


class EvalPlusBenchmark(Strict):
    """A problem file in EvalPlus's format, graded by EvalPlus's own checker (base and plus inputs)."""

    kind: Literal["evalplus"]
    name: Name
    path: Path
    """`.jsonl` or `.jsonl.gz` in HumanEval+ format."""
    prompt_field: str = "prompt"
    """Field that is sent to the model as the user's message."""
    completion: Literal["extract", "append"] = "extract"
    """`extract`: the model answers with a program (in a fence or bare); `append`: its completion
    continues the problem's `prompt` (function header)."""
    limit: PositiveInt | None = None
    """Use only the first so many problems."""
    samples_per_problem: PositiveInt | None = None
    """Sampled answers to each problem; by default those of `evaluation`."""


class GradedBenchmark(Strict):
    """The user's own problems, or generated ones, judged by a grader of choice."""

    kind: Literal["graded"]
    name: Name
    path: Path | None = None
    """`.jsonl` with one problem a line."""
    generate: GymTask | None = None
    """In place of `path`: problems that reasoning-gym generates, for its verifier or a python grader."""
    problem_field: str = "prompt"
    """Field with the problem's text."""
    answer_field: str = "answer"
    """Field with the expected answer (any JSON value); problems may lack it where the grader needs none."""
    suffix: str = ""
    """Text appended to every problem."""
    grader: Grader
    """What judges an answer: `exact` (the text), `number` (the last number), or a block as for a reward."""
    pass_mark: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Score from which an answer is right, for graders that give partial credit (python, reasoning_gym)."""
    limit: PositiveInt | None = None
    """Use only the first so many problems."""
    samples_per_problem: PositiveInt | None = None
    """Sampled answers to each problem; by default those of `evaluation`."""

    @model_validator(mode="after")
    def _one_source_and_what_it_reads(self) -> GradedBenchmark:
        if (self.path is None) == (self.generate is None):
            raise ValueError("give one of `path` (a .jsonl file) and `generate` (a task of reasoning-gym)")
        kind = self.grader if isinstance(self.grader, str) else self.grader.kind
        if self.generate is not None:
            unread = {"problem_field", "answer_field"} & self.model_fields_set
            if unread:
                raise ValueError(f"{min(unread)} is read with `path` only; leave it out")
            if kind not in PARTIAL:
                raise ValueError(
                    f"grader {kind} cannot judge generated problems; valid: {', '.join(PARTIAL)}"
                )
        if kind not in PARTIAL and self.pass_mark != 1.0:
            raise ValueError(
                f"pass_mark changes nothing with grader {kind}, which gives 0 or 1; leave it out"
            )
        return self


PARTIAL = ("python", "reasoning_gym")
"""Graders that may give more than 0 and less than 1."""


Benchmark = Annotated[
    StandardBenchmark | MathBenchmark | EvalPlusBenchmark | GradedBenchmark, Field(discriminator="kind")
]


def _standard(value: object) -> object:
    return {"kind": "standard", "name": value} if isinstance(value, str) else value


NamedBenchmark = Annotated[
    Benchmark, BeforeValidator(_standard, json_schema_input_type=StandardName | Benchmark)
]
"""A block, or the name of a standard benchmark."""
