"""Validations of a training: what is asked for, when they are due, and what is remembered of them.

A training has one before its first step, one every so many steps and one at its end. Each has a checkpoint of
its step, so that a training that goes on from its last checkpoint finds all validations up to there done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from common.files import append_line, cut_unfinished_line, json_lines, new_folder, remove_folder, write_text
from common.reading import read_json_lines

FILE = "validation.jsonl"
"""In the training's folder: a line for each validation, as `Validated`."""
BEST = "best"
"""In the training's folder: the weights of the best validation, laid out as checkpoints are."""
CONFIG_KEY = "protege.validation"
"""Key in verl's config with a `Validation` as plain values."""

OWN_SYNC_MODE = "own_sync"
"""Name in verl's registry of trainers: its synchronous one, which can be validated."""

GREEDY, SAMPLED = "greedy", "sampled"
"""Both ways in which every prompt is answered: once greedily, and some times at temperature 1."""


@dataclass(frozen=True)
class Validation:
    """What a training's validations ask, and what follows from them."""

    prompts: Path
    """Parquet in verl's format."""
    every: int
    """Steps from one to the next."""
    samples: int
    """Answers at temperature 1 to each prompt."""
    seed: int
    """Of these answers, the same at every validation."""
    rollouts: int
    """Answers of one validation, over all domains and both decodings."""
    keep_best: bool = False
    """Whether the best validation's weights are kept."""
    patience: int | None = None
    """Validations without a new best that end the training; None for never."""

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the weights after this step are validated, of a training of so many steps."""
        return step in due_steps(self.every, steps)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "prompts": str(self.prompts)}


class Trained(Protocol):
    """A job of any trainer, as far as validations go."""

    @property
    def folder(self) -> Path:
        """Of its work."""
        ...

    @property
    def steps(self) -> int:
        """All of them."""
        ...


@dataclass(frozen=True)
class Score:
    """The answers to one domain's prompts by one decoding."""

    accuracy: float
    """Mean reward of the answers, in [0, 1]."""
    n: int
    """Prompts."""
    answers: int
    length: float
    """Mean tokens of an answer."""
    finish_rate: float
    """Share of the answers that ended by themselves."""


@dataclass(frozen=True)
class Validated:
    """One validation, of the weights after `step` steps."""

    step: int
    seconds: float
    """How long it took."""
    scores: Mapping[str, Mapping[str, Score]]
    """By domain and decoding."""

    @property
    def accuracy(self) -> float:
        """Mean over the domains of the mean over both decodings: what is compared between steps."""
        return fmean(self.by_domain.values())

    @property
    def by_domain(self) -> dict[str, float]:
        """Accuracy of each domain: mean over both decodings."""
        return {
            domain: fmean(score.accuracy for score in own.values()) for domain, own in self.scores.items()
        }

    def metrics(self) -> dict[str, float]:
        """Fields of its step's line of metrics: `validation/<domain>/<decoding>` and what it rests on."""
        found = {"validation/accuracy": self.accuracy, "validation/seconds": self.seconds}
        for domain, own in self.scores.items():
            for decoding, score in own.items():
                key, values = f"validation/{domain}/{decoding}", asdict(score)
                found[key] = values.pop("accuracy")
                found |= {f"{key}/{name}": value for name, value in values.items()}
        return found

    def text(self) -> str:
        """Accuracies with their n, in words."""
        parts = [f"{domain} {_decodings(own)}" for domain, own in self.scores.items()]
        return f"mean {self.accuracy:.1%} ({'; '.join(parts)})"


def due_steps(every: int, steps: int) -> list[int]:
    """After which steps a training of so many is validated: before the first, every so many, at the end."""
    return [*range(0, steps, every), steps]


def _decodings(own: Mapping[str, Score]) -> str:
    greedy, sampled = own[GREEDY], own[SAMPLED]
    prompts = f"n = {greedy.n} prompts, {sampled.answers // sampled.n} answers each at T = 1"
    return f"greedy {greedy.accuracy:.1%}, T = 1 {sampled.accuracy:.1%}, {prompts}"


def read_validations(folder: Path) -> list[Validated]:
    """All validations of the training in this folder, in order; an unfinished last line is left out."""
    return read_json_lines(folder / FILE, Validated, "validations, one a line")


def best(done: Sequence[Validated]) -> Validated | None:
    """The most accurate validation, of equal ones the earliest; None without any."""
    return max(done, key=lambda one: (one.accuracy, -one.step), default=None)


def stopped_at(done: Sequence[Validated], patience: int | None) -> int | None:
    """Step of the validation that was the `patience`-th in a row without a new best; None where none was."""
    since, highest = 0, float("-inf")
    for one in done:
        since = 0 if one.accuracy > highest else since + 1
        highest = max(highest, one.accuracy)
        if since == patience:
            return one.step
    return None


def validation_of(job: Trained) -> Validation | None:
    """What the job's validations ask; None where it has none."""
    return getattr(job, "validation", None)


def last_step(job: Trained) -> int:
    """Step after which the job ends: its last, or the one at which its patience ended."""
    asked = validation_of(job)
    stopped = stopped_at(read_validations(job.folder), asked.patience) if asked else None
    return job.steps if stopped is None else stopped


def is_complete(job: Trained, checkpoint: int) -> bool:
    """Whether a job with a last checkpoint of this step has ended, its last validation included."""
    end = last_step(job)
    if checkpoint != end:
        return False
    return validation_of(job) is None or any(one.step == end for one in read_validations(job.folder))


# ---------------------------------------------------------------------------------------- what is kept


def forget_after(folder: Path, checkpoint: int) -> None:
    """Leaves the validations up to the last checkpoint: later weights are gone, and will not come again."""
    if not (folder / FILE).exists():
        return
    cut_unfinished_line(folder / FILE)
    done = read_validations(folder)
    left = [one for one in done if one.step <= checkpoint]
    if len(left) < len(done):
        write_text(folder / FILE, json_lines(map(asdict, left)))


def remember(folder: Path, one: Validated) -> None:
    """Adds a validation to the training's."""
    append_line(folder / FILE, json.dumps(asdict(one)))


def keep_best(folder: Path, checkpoints: Path) -> None:
    """Keeps the weights of the best validation, which verl would remove with its old checkpoints.

    May be repeated: a process that was killed between a validation and this leaves the checkpoint there.
    """
    found = best(read_validations(folder))
    kept = folder / BEST
    if found is None or (kept / _name(found.step)).exists():
        return
    if found.step == 0:  # the model that training began at needs no copy
        remove_folder(kept)
        return
    with new_folder(kept) as made:
        for file in sorted((checkpoints / _name(found.step)).rglob("model_world_size_*_rank_*.pt")):
            target = made / file.relative_to(checkpoints)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)


def _name(step: int) -> str:
    return f"global_step_{step}"


def _link(source: Path, target: Path) -> None:
    """Takes no room while verl keeps the checkpoint too; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# ------------------------------------------------------------------------------------ while it trains


class ValidationTail:
    """Follows the validations of a training, for the process that waits for it."""

    def __init__(self, job: Trained, on_validation: Callable[[Validated], None]) -> None:
        self.job, self.on_validation = job, on_validation
        self.seen = len(read_validations(job.folder))

    def read(self) -> int:
        """Hands on all validations that are new; returns their number."""
        new = list(self._new())
        self.seen += len(new)
        for one in new:
            self.on_validation(one)
        return len(new)

    def _new(self) -> Iterator[Validated]:
        if validation_of(self.job) is not None:
            yield from read_validations(self.job.folder)[self.seen :]

    def patience_factor(self, step: int) -> float:
        """How much longer than a step it may take until the next sign of life, behind this step: a validation
        has more answers than a step."""
        asked = validation_of(self.job)
        if asked is None or not asked.is_due(step, self.job.steps):
            return 1.0
        if any(one.step == step for one in read_validations(self.job.folder)):
            return 1.0
        return 1.0 + asked.rollouts / rollouts_per_step(self.job)


def rollouts_per_step(job: Trained) -> int:
    """Answers that a step trains on."""
    return getattr(job, "prompts_per_step", 1) * getattr(job, "samples_per_prompt", 1)
