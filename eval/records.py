"""What a benchmark asks, what a model answers and how that was judged, and their file format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError
from common.files import new_file
from common.reading import lines_of, opened, plain_json, typed_json

Mode = Literal["greedy", "sampled"]


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
    mode: Mode
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
        """The sample that `to_json` wrote. Raises ConfigError for anything else."""
        return _sample(line.encode(), "not a sample record")


def _sample(line: bytes, where: str) -> Sample:
    try:
        return typed_json(line, Sample, where)
    except ConfigError:
        if b"\\ud" not in line.lower():
            raise
    # a model may write half of a character, which pydantic takes for no text
    fields = plain_json(line, where)
    sample = typed_json(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace"), Sample, where)
    asked = fields["prompt"]
    prompt = asked if isinstance(asked, str) else tuple(asked)
    return replace(sample, prompt=prompt, completion=fields["completion"], detail=fields["detail"])


Samples = Mapping[tuple[str, str], Sequence[Sample]]
"""Judged answers by (model, benchmark)."""


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write one sample a line; the file appears whole or not at all."""
    with new_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(sample.to_json() + "\n" for sample in samples)


def read_samples(path: Path) -> list[Sample]:
    """Samples of a file, in its order. Raises ConfigError, naming the line, if one is damaged."""
    samples = []
    with opened(Path(path), "a file of samples") as file:
        for number, line in enumerate(lines_of(file, path), start=1):
            samples.append(_sample(line, f"{path}, line {number}: not a sample record"))
    return samples


def is_asked(role: str, own_domain: str | None, domain: str) -> bool:
    """Whether a model answers the benchmarks of a domain: all do but a baseline that has a domain of its own,
    which answers that one's alone."""
    return role != "baseline" or own_domain in (None, domain)
