"""What a benchmark asks, what a model answers and how that was judged, and their file format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal


class Verdict(StrEnum):
    """How an answer was judged. UNSCORED says that it could not be judged, never that it was wrong."""

    PASS = "pass"
    FAIL = "fail"
    UNSCORED = "unscored"


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark."""

    id: str
    """Unique within its benchmark."""
    messages: tuple[dict[str, str], ...]
    """Chat messages sent to the model, each with `role` and `content`."""
    reference: Any
    """What the benchmark's grader needs to judge an answer."""


@dataclass(frozen=True)
class Completion:
    """One answer of a model."""

    text: str
    tokens: int
    """Length in tokens, the end token included."""
    finished: bool
    """False: the answer hit the length limit."""


@dataclass(frozen=True)
class Grade:
    """The judgement of one answer."""

    verdict: Verdict
    detail: str
    """Why, in a few words."""


@dataclass(frozen=True)
class Sample:
    """One judged answer, as it is stored."""

    benchmark: str
    problem_id: str
    mode: Literal["greedy", "sampled"]
    index: int
    """Position among the answers of the same model to the same problem in the same mode, from 0."""
    prompt: str | tuple[dict[str, str], ...]
    """What the model was sent: a text or the chat messages."""
    completion: str
    tokens: int
    finished: bool
    verdict: Verdict
    detail: str

    def to_json(self) -> str:
        """One line of JSON, without the line break."""
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """The sample that `to_json` wrote. Raises ValueError for anything else."""
        fields = json.loads(line)
        try:
            if isinstance(fields["prompt"], list):
                fields["prompt"] = tuple(fields["prompt"])
            return cls(**{**fields, "verdict": Verdict(fields["verdict"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a sample record: {error}") from None


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write one sample a line; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(sample.to_json() + "\n" for sample in samples)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_samples(path: Path) -> list[Sample]:
    """Samples of a file, in its order. Raises ValueError, naming the line, if one is damaged."""
    samples = []
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                samples.append(Sample.from_json(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return samples
