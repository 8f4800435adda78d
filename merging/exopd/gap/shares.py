"""Trainings whose shares follow each domain's distance to its optimum: what they read, and have read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import MergeConfig
from eval.report.sections.prompts import SharePlan
from merging.exopd.lambda_schedule import LambdaSchedule
from routing.gap import GapBudget, GapOrder, PlannedStep, ValidationOf, planned_steps
from trainer.validation import read_validations, stopped_at

if TYPE_CHECKING:
    from merging.state.run_folder import RunFolder


def validations_in(work: Path) -> ValidationOf:
    """What the validations of the training in this folder have found so far, by domain."""
    return {one.step: one.by_domain for one in read_validations(work)}.get


# ------------------------------------------------------------------------------- while the student trains


@dataclass(frozen=True)
class Reading:
    """How one training reads the pool of prompts."""

    budget: GapBudget
    seed: int
    schedule: LambdaSchedule
    work: Path
    """The training's folder, where its validations are remembered."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for verl's config."""
        schedule = {
            "scales": dict(self.schedule.scales),
            "warmup_steps": self.schedule.warmup_steps,
            "one_from": dict(self.schedule.one_from),
        }
        own = {"seed": self.seed, "work": str(self.work), "schedule": schedule}
        return {"budget": self.budget.to_json(), **own}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """What `to_json` gave."""
        budget, schedule = GapBudget.from_json(values["budget"]), LambdaSchedule(**values["schedule"])
        return cls(budget, values["seed"], schedule, Path(values["work"]))


class PoolReader:
    """The rows of a training in reading order: each is a row of the pool with its step's lambda.

    `teachers` are the domains of the pool's rows.
    """

    def __init__(self, reading: Reading, teachers: Sequence[str]) -> None:
        self.reading = reading
        # read anew for each span of steps: the training adds a validation before the first of them
        self.order = GapOrder(
            reading.budget, reading.seed, teachers, lambda step: validations_in(reading.work)(step)
        )

    def __len__(self) -> int:
        """Rows of the whole training."""
        return len(self.order)

    def row_at(self, index: int) -> int:
        """Row of the pool that is read at this place, from 0."""
        return self.order.place(index).row

    def placed(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The pool's row as it is read at this place."""
        place = self.order.place(index)
        scale = self.reading.schedule.at(place.domain, place.step)
        return {**row, "reward_scale": scale, "extra_info": {**row["extra_info"], "index": index}}


# -------------------------------------------------------------------------------------- when it is over


def planned(config: MergeConfig, work: Path) -> list[PlannedStep]:
    """The steps of the validated training in this folder, up to its end, or as far as validations are done;
    empty with another mixing."""
    if (budget := GapBudget.of(config)) is None:
        return []
    done = read_validations(work)
    found = {one.step: one.by_domain for one in done}
    last = stopped_at(done, config.training.patience)
    return list(_planned(json.dumps(budget.to_json()), json.dumps(sorted(found.items())), last))


@lru_cache(maxsize=8)
def _planned(budget: str, found: str, last: int | None) -> tuple[PlannedStep, ...]:
    """Kept, since every part of a report asks, and 5,000 steps of 1,024 rows take 44 seconds."""
    steps = planned_steps(GapBudget.from_json(json.loads(budget)), dict(json.loads(found)).get)
    return tuple(islice(steps, last))


def planned_rows(config: MergeConfig, work: Path) -> dict[str, int]:
    """Rows of each domain in the training in this folder."""
    counts = Counter(name for step in planned(config, work) for name in step.names)
    return {name: counts[name] for name in config.domains}


def write_read_rows(reading: Reading, pool: Path, rows: int, target: Path) -> None:
    """Writes so many rows as the training has read them, in reading order; whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from routing.dataset import write_whole

    table = pq.read_table(pool)
    reader = PoolReader(reading, table.column("teacher").to_pylist())
    taken = table.take([reader.row_at(index) for index in range(rows)]).to_pylist()
    read = [reader.placed(row, index) for index, row in enumerate(taken)]
    write_whole(pa.Table.from_pylist(read, schema=table.schema), target)


def with_shares(config: MergeConfig, work: Path, lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Lines of metrics with the domains' planned shares of each step, as `share/<domain>`."""
    shares = {
        step.step: {f"share/{name}": float(share) for name, share in step.shares.items()}
        for step in planned(config, work)
    }
    return [{**line, **shares.get(int(line["step"]), {})} for line in lines]


def share_plans(folder: RunFolder) -> list[SharePlan]:
    """The shares that each validated training had, by the validation that they followed; empty with another
    mixing."""
    config = folder.config
    plans: list[SharePlan] = []
    for title, work in validated_works(folder).items():
        found = validations_in(work)
        spans: dict[int | None, list[PlannedStep]] = {}
        for step in planned(config, work):
            spans.setdefault(step.validation, []).append(step)
        for validation, steps in spans.items():
            accuracy = (found(validation) if validation is not None else None) or {}
            shares = {name: float(share) for name, share in steps[0].shares.items()}
            plans.append(SharePlan(title, steps[0].step, steps[-1].step, validation, accuracy, shares))
    return plans


def validated_works(folder: RunFolder) -> dict[str, Path]:
    """Folders of the merge and of the baselines that are distilled as it is, by stage."""
    stages = ("merge", *(f"baseline {each.kind}" for each in folder.config.distilled_baselines()))
    return {stage: work for stage, work in folder.works().items() if stage in stages}


def share_notes(folder: RunFolder) -> list[str]:
    """The range of the shares that each validated training had."""
    plans, notes = share_plans(folder), []
    for title in dict.fromkeys(plan.training for plan in plans):
        own = [plan for plan in plans if plan.training == title]
        ranges = {name: [plan.shares[name] for plan in own] for name in folder.config.domains}
        told = ", ".join(f"{name} {min(each):.1%} to {max(each):.1%}" for name, each in ranges.items())
        notes.append(
            f"{title}: the domains' shares of its steps followed its validations (mixing: gap): {told}; by "
            "validation in the report's table of shares"
        )
    return notes


def next_shares_text(config: MergeConfig, accuracies: Mapping[str, float]) -> str:
    """The shares that follow a validation, in words; empty with another mixing."""
    if (budget := GapBudget.of(config)) is None:
        return ""
    shares = budget.shares(accuracies)
    return "; shares by it: " + ", ".join(f"{name} {float(share):.1%}" for name, share in shares.items())
