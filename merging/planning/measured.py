"""What was measured before: seconds of a rollout, and how long answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from teachers.registry.local import ExpertRecord, Registry
from trainer.run import read_metrics
from trainer.validation import read_validations

SECONDS, LENGTH = "timing_s/step", "response_length/mean"
"""verl's names, in the metrics of a training's work."""

SCALED = "scaled by rollouts"
"""How a time that was measured in another training is said to be used."""


@dataclass(frozen=True)
class Value:
    """A measured number, and where."""

    value: float
    source: str


@dataclass(frozen=True)
class Experts:
    """The experts of a registry that were built from a base, on the same kind of device."""

    curves: Mapping[str, list[dict[str, float]]]
    """Learning curve by id."""
    records: Sequence[ExpertRecord]

    @classmethod
    def of(cls, registry: Registry, base_sha256: str, on_cpu: bool) -> Experts:
        """Imported ones were not timed."""
        built = [r for r in registry.list() if r.identity.get("recipe") is not None]
        records = [r for r in built if r.base_sha256 == base_sha256 and _fits(r, on_cpu)]
        return cls({record.id: registry.curve(record) for record in records}, records)

    def seconds_per_rollout(self) -> Value | None:
        """Median over the experts of their median step's seconds divided by its rollouts."""
        each = []
        for record in self.records:
            recipe = record.identity["recipe"]
            steps = [row["step_seconds"] for row in self.curves[record.id] if "step_seconds" in row]
            rollouts = recipe["prompts_per_step"] * recipe["samples_per_prompt"]
            each += [median(steps) / rollouts] if steps else []
        return Value(median(each), f"{_experts(len(each))} of this base, {SCALED}") if each else None

    def answer_length(self, domain: str) -> Value | None:
        """Mean tokens of an answer over the steps of the domain's experts, else of all."""
        of_domain = [record for record in self.records if record.domain == domain]
        for records in (of_domain, self.records):
            each = [fmean(found) for record in records if (found := self._lengths(record))]
            if each:
                return Value(median(each), f"{_experts(len(each))} of this base")
        return None

    def _lengths(self, record: ExpertRecord) -> list[float]:
        return [row["response_length"] for row in self.curves[record.id] if "response_length" in row]


def _experts(count: int) -> str:
    return f"{count} expert{'s' * (count != 1)}"


def _fits(record: ExpertRecord, on_cpu: bool) -> bool:
    """Whether it was built on such a device, as torch's version tells; unknown ones count."""
    torch = record.versions.get("torch")
    return torch is None or torch.endswith("+cpu") == on_cpu


def seconds_per_step(work: Path) -> Value | None:
    """Median step of a training in this folder."""
    seconds = [row[SECONDS] for row in read_metrics(work) if SECONDS in row]
    return Value(median(seconds), f"{len(seconds)} steps of this run") if seconds else None


def answer_length(work: Path) -> Value | None:
    """Mean tokens of an answer in the training of this folder."""
    lengths = [row[LENGTH] for row in read_metrics(work) if LENGTH in row]
    return Value(fmean(lengths), f"{len(lengths)} steps of this run") if lengths else None


def seconds_per_validation(work: Path) -> float | None:
    """Median validation of the training in this folder."""
    seconds = [one.seconds for one in read_validations(work)]
    return median(seconds) if seconds else None
