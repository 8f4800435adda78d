"""Shares that follow each domain's distance to its optimum, planned anew at every validation of a training.

Everything here is a function of the config and of the accuracies that validations found, so a training that
goes on after a kill reads the rows that it would have read without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from configs.schema import MergeConfig
from routing.apportion import interleaved, step_counts
from routing.mix import domain_stream

Accuracies = Mapping[str, float]
"""By domain, in [0, 1]."""
ValidationOf = Callable[[int], Accuracies | None]
"""What the validation after this step found; None where it is not done yet."""

UNIT = 10**9
"""Accuracies, and shares that make up for rounding, are whole numbers of 1 / UNIT: finer than a row of any
training, and exact arithmetic with them stays fast over any number of validations."""


@dataclass(frozen=True)
class PlannedStep:
    """The rows of one step."""

    step: int
    """From 1."""
    validation: int | None
    """Step of the validation that its shares follow; None for equal shares, before the first one counts."""
    shares: Mapping[str, Fraction]
    """By domain; they add up to 1."""
    names: tuple[str, ...]
    """Domain of each row, in reading order."""


@dataclass(frozen=True)
class GapBudget:
    """How the rows of a training are shared between domains."""

    domains: tuple[str, ...]
    floor: Fraction
    """Least share of a domain, as a part of the equal share."""
    optimum: Mapping[str, Fraction]
    """By domain: the accuracy that its validation can reach."""
    steps: int
    size: int
    """Rows of a step."""
    every: int
    """Steps from one validation to the next."""
    late: int = 0
    """Steps whose rows are read before a validation is done that precedes them: 1 where rollouts are one step
    ahead, else 0."""

    @classmethod
    def of(cls, config: MergeConfig) -> GapBudget | None:
        """That of a config's validated trainings; None with another mixing."""
        mixing, training = config.mixing, config.training
        if mixing.kind != "gap":
            return None
        assert training.validate_every is not None, "checked by the schema"
        return cls(
            domains=tuple(config.domains),
            floor=_exact(mixing.floor),
            optimum={name: _exact(mixing.optimum.get(name, 1.0)) for name in config.domains},
            steps=training.steps,
            size=training.prompts_per_step,
            every=training.validate_every,
            late=int(training.overlap == "one_step"),
        )

    @property
    def least(self) -> Fraction:
        """Least share of a domain; one alone has all."""
        return self.floor / len(self.domains) if len(self.domains) > 1 else Fraction(1)

    @property
    def most(self) -> Fraction:
        """Largest share of a domain: all others have the least."""
        return 1 - (len(self.domains) - 1) * self.least

    def shares(self, accuracies: Accuracies | None) -> dict[str, Fraction]:
        """In proportion to the distance of each domain's accuracy to its optimum, and none below the least;
        equal ones without a validation, and where every domain is at its optimum. They add up to 1."""
        if accuracies is None:
            return dict.fromkeys(self.domains, Fraction(1, len(self.domains)))
        gaps = {name: self.optimum[name] - _exact(accuracies[name]) for name in self.domains}
        return _with_least({name: max(gap, Fraction(0)) for name, gap in gaps.items()}, self.least)

    def spans(self) -> Iterator[tuple[int | None, int, int]]:
        """Parts of the training with the same shares: (step of the validation, first step, last step)."""
        if self.late:
            yield None, 1, min(self.late, self.steps)
        for validation in range(0, self.steps - self.late, self.every):
            yield (
                validation,
                validation + self.late + 1,
                min(validation + self.late + self.every, self.steps),
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "domains": list(self.domains),
            "floor": str(self.floor),
            "optimum": [str(self.optimum[name]) for name in self.domains],
            "steps": self.steps,
            "size": self.size,
            "every": self.every,
            "late": self.late,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GapBudget:
        """What `to_json` gave."""
        domains, optimum = tuple(values["domains"]), map(Fraction, values["optimum"])
        best = dict(zip(domains, optimum, strict=True))
        numbers = {name: values[name] for name in ("steps", "size", "every", "late")}
        return cls(domains, Fraction(values["floor"]), best, **numbers)


def planned_steps(budget: GapBudget, validation_of: ValidationOf) -> Iterator[PlannedStep]:
    """The steps of the training, up to the first whose validation is not done yet.

    Between two validations the shares are as exact as those of any mixing (`routing.apportion.step_counts`).
    What rounding has given a domain too little or too much until then is made up for before the next one, so
    that it does not add up over validations.
    """
    owed = dict.fromkeys(budget.domains, Fraction(0))
    for validation, first, last in budget.spans():
        accuracies = None if validation is None else validation_of(validation)
        if validation is not None and accuracies is None:
            return
        shares, steps = budget.shares(accuracies), last - first + 1
        paced = _paced(shares, owed, steps * budget.size)
        given = dict.fromkeys(budget.domains, 0)
        for step, counts in enumerate(step_counts(paced, steps, budget.size), first):
            yield PlannedStep(step, validation, shares, tuple(interleaved(counts, paced, given)))
            given = {name: given[name] + counts[name] for name in given}
        due = {name: owed[name] + shares[name] * steps * budget.size - given[name] for name in given}
        owed = {name: Fraction(round(rows * UNIT), UNIT) for name, rows in due.items()}


def _exact(value: float) -> Fraction:
    return Fraction(round(value * UNIT), UNIT)


def _with_least(weights: Mapping[str, Fraction], least: Fraction) -> dict[str, Fraction]:
    """Shares in proportion to the weights, of which those below `least` are raised to it, at the others'
    cost; equal ones where all weights are 0."""
    if not any(weights.values()):
        return dict.fromkeys(weights, Fraction(1, len(weights)))
    raised: set[str] = set()
    while True:
        free = [name for name in weights if name not in raised]
        left, total = 1 - least * len(raised), sum(weights[name] for name in free)
        shares = {name: least if name in raised else left * weights[name] / total for name in weights}
        low = {name for name in free if shares[name] < least}
        if not low:
            return shares
        raised |= low


def _paced(shares: Mapping[str, Fraction], owed: Mapping[str, Fraction], rows: int) -> dict[str, Fraction]:
    """Shares of so many rows that also give each name the rows that it is owed; a name that has had more than
    the rows' due waits. They are positive and add up to 1."""
    if not any(owed.values()):
        return dict(shares)
    wanted = {name: max(share + owed[name] / rows, Fraction(0)) for name, share in shares.items()}
    total = sum(wanted.values())
    units = {name: max(round(UNIT * share / total), 1) for name, share in wanted.items()}
    largest = max(units, key=lambda name: units[name])
    units[largest] += UNIT - sum(units.values())
    return {name: Fraction(count, UNIT) for name, count in units.items()}


# ------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Place:
    """What stands at one place of the reading order."""

    step: int
    domain: str
    row: int
    """Of the pool, which holds each prompt once."""


class GapOrder:
    """The reading order of a training over a pool of prompts, known as far as validations are done.

    `teachers` are the domains of the pool's rows. A domain's rows come as in a training with any other
    shares: in a random order of `seed`, anew in every pass.
    """

    def __init__(
        self, budget: GapBudget, seed: int, teachers: Sequence[str], validation_of: ValidationOf
    ) -> None:
        rows: dict[str, list[int]] = {name: [] for name in budget.domains}
        for row, name in enumerate(teachers):
            rows[name].append(row)
        self.budget, self.validation_of = budget, validation_of
        self._streams = {name: domain_stream(own, seed, name) for name, own in rows.items()}
        self._steps = planned_steps(budget, self._known)
        self._places: list[Place] = []

    def __len__(self) -> int:
        """Rows of the whole training."""
        return self.budget.steps * self.budget.size

    def place(self, index: int) -> Place:
        """What is read at this place, from 0; the validations before its step must be done."""
        while len(self._places) <= index:
            planned = next(self._steps)
            self._places += [Place(planned.step, name, next(self._streams[name])) for name in planned.names]
        return self._places[index]

    def _known(self, step: int) -> Accuracies:
        """Rows must never be read by older shares than the plan says."""
        found = self.validation_of(step)
        assert found is not None, f"rows are read before the validation after step {step} is done"
        return found
