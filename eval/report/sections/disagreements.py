"""Problems that one of student and teacher solves and the other does not, counted and shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from eval.records import Mode, Sample

Side = Literal["student", "teacher"]
EXAMPLES_EACH_WAY = 2


@dataclass(frozen=True)
class Example:
    """One problem on which student and teacher disagree."""

    right: Side
    benchmark: str
    problem_id: str
    prompt: str
    student_completion: str
    teacher_completion: str
    student_detail: str = ""
    teacher_detail: str = ""


@dataclass(frozen=True)
class Disagreements:
    """One answer of each to every problem, both judged; `problems` is how many that are."""

    domain: str
    teacher: str
    mode: Mode
    problems: int
    student_only: int
    teacher_only: int
    examples: tuple[Example, ...] = ()


def find_disagreements(
    domain: str, teacher: str, student_samples: Sequence[Sample], teacher_samples: Sequence[Sample]
) -> Disagreements:
    """Counts disagreements and picks examples of both directions.

    Compares the greedy answers where both have them, else the first sampled one: an answer is not
    picked for what it shows. Examples are taken in the order of a hash of the problem's id.
    """
    mode = "greedy" if _greedy(student_samples) and _greedy(teacher_samples) else "sampled"
    ours, theirs = _first_answers(student_samples, mode), _first_answers(teacher_samples, mode)
    common = sorted(ours.keys() & theirs.keys(), key=_hash)
    student_only = [key for key in common if _right(ours[key]) and not _right(theirs[key])]
    teacher_only = [key for key in common if _right(theirs[key]) and not _right(ours[key])]
    shown: dict[Side, list[tuple[str, str]]] = {"student": student_only, "teacher": teacher_only}
    return Disagreements(
        domain=domain,
        teacher=teacher,
        mode=mode,
        problems=len(common),
        student_only=len(student_only),
        teacher_only=len(teacher_only),
        examples=tuple(
            _example(right, ours[key], theirs[key])
            for right, keys in shown.items()
            for key in keys[:EXAMPLES_EACH_WAY]
        ),
    )


def _greedy(samples: Sequence[Sample]) -> bool:
    return any(sample.mode == "greedy" for sample in samples)


def _first_answers(samples: Sequence[Sample], mode: str) -> dict[tuple[str, str], Sample]:
    """The answer with index 0 to every problem, where it could be judged."""
    return {
        (sample.benchmark, sample.problem_id): sample
        for sample in samples
        if sample.mode == mode and sample.index == 0 and sample.verdict != "unscored"
    }


def _right(sample: Sample) -> bool:
    return sample.verdict == "pass"


def _hash(key: tuple[str, str]) -> str:
    return hashlib.sha256("/".join(key).encode()).hexdigest()


def _example(right: Side, ours: Sample, theirs: Sample) -> Example:
    return Example(
        right=right,
        benchmark=ours.benchmark,
        problem_id=ours.problem_id,
        prompt=_as_text(ours.prompt),
        student_completion=ours.completion,
        teacher_completion=theirs.completion,
        student_detail=ours.detail,
        teacher_detail=theirs.detail,
    )


def _as_text(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """A prompt as one text; the role is named where there is more than the user's one message."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
