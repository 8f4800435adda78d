"""A plan, and what a check found of memory, as text for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from common.words import duration, gb
from merging.checks.found import Preflight
from merging.planning.held import Held
from merging.planning.plan import MergePlan
from merging.planning.seconds import STEP_PARTS
from merging.state.planned import PlannedStage

WIDTH = 140
"""Columns where standard output is no terminal."""


def show(plan: MergePlan) -> None:
    """Prints the plan to standard output."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = WIDTH
    _print(console, f"{plan.run} on {plan.devices} x {plan.device}", stage_table(plan))
    passes = ", ".join(f"{name} {count}" for name, count in plan.scorer_passes_per_rollout.items())
    print(f"scorer passes per rollout: {passes}")
    if any(stage.step_seconds for stage in plan.stages):
        _print(console, "seconds of a step, by arithmetic", step_table(plan.stages))
    for held in plan.memory:
        _print(console, _memory_title(held), memory_table(held))
    disk = ", ".join(f"{part} {gb(size)}" for part, size in plan.disk.items())
    print(f"disk: {gb(sum(plan.disk.values()))} ({disk})")
    for assumption in plan.assumptions:
        print(f"assumes: {assumption}")


def stage_table(plan: MergePlan) -> Table:
    """Every stage with its work, time and price, and the totals."""
    table = _table(("stage", "state"))
    for name in ("steps", "rollouts", "scorer passes", "time", "device-hours", "price"):
        table.add_column(name, justify="right")
    table.add_column("from", overflow="fold")
    for stage in plan.stages:
        work = (_count(stage.steps), _count(stage.rollouts), _count(stage.scorer_passes))
        money = (_number(stage.device_hours), _number(stage.price))
        table.add_row(stage.name, stage.state, *work, _time(stage), *money, _basis(stage))
    total = "" if plan.seconds is None else duration(plan.seconds)
    table.add_section()
    table.add_row("known times", "", "", "", "", total, _number(plan.device_hours), _number(plan.price), "")
    return table


def step_table(stages: Sequence[PlannedStage]) -> Table:
    """Seconds of one step of each training that is left, by part and by arithmetic."""
    trainings = [stage for stage in stages if stage.step_seconds and stage.steps]
    parts = [part for part in STEP_PARTS if any(part in stage.step_seconds for stage in trainings)]
    table = _table(("training",))
    for part in (*parts, "sum"):
        table.add_column(part, justify="right")
    for stage in trainings:
        seconds = stage.step_seconds
        cells = [f"{seconds[part]:,.1f}" if part in seconds else "" for part in parts]
        table.add_row(stage.name, *cells, f"{sum(seconds.values()):,.1f}")
    return table


def memory_table(held: Held) -> Table:
    """What is held by part, in every phase."""
    table = _table(("part",))
    if held.not_modelled is not None:
        table.add_row(f"not modelled: {held.not_modelled}")
        return table
    for phase in held.phases:
        table.add_column(phase, justify="right")
    for part in dict.fromkeys(part for parts in held.phases.values() for part in parts):
        sizes = [parts.get(part, 0) for parts in held.phases.values()]
        if any(sizes):
            table.add_row(part, *(gb(size) if size else "" for size in sizes))
    table.add_section()
    table.add_row("sum", *(gb(sum(parts.values())) for parts in held.phases.values()))
    return table


def memory_lines(found: Preflight) -> list[str]:
    """Peaks that a check found: of the devices, of main memory and of the disk."""
    lines = [_peak(held) for held in found.device_memory]
    if (host := found.main_memory) is not None:
        short = f"; this machine has {gb(host.available or 0)}" if not host.fits else ""
        lines.append(f"main memory about {gb(host.bytes)}{short}")
    return [*lines, f"disk about {gb(found.disk_bytes)}"]


def _peak(held: Held) -> str:
    if held.not_modelled is not None:
        return f"{held.title} not modelled ({held.not_modelled})"
    of = "not checked: devices not known here, hardware.device_kind names them"
    there = of if held.available is None else f"of {gb(held.available)}"
    return f"{held.title} about {gb(held.bytes)} on a device in its {held.phase} ({there})"


def _print(console: Console, title: str, table: Table) -> None:
    console.print(title, style="bold", markup=False)
    console.print(table)


def _memory_title(held: Held) -> str:
    place = held.title if held.title == "main memory" else f"memory of a device: {held.title}"
    return place if held.available is None else f"{place}, of {gb(held.available)}"


def _table(columns: Sequence[str]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column)
    return table


def _time(stage: PlannedStage) -> str:
    if stage.seconds is not None:
        return duration(stage.seconds)
    return "not known" if stage.is_left else ""


def span(low: float, high: float) -> str:
    """Two times in the unit that suits the longer one, such as `1.2 to 3.4 h`."""
    size, unit = next((pair for pair in ((3600, "h"), (60, "min")) if high >= 2 * pair[0]), (1, "s"))
    return f"{low / size:.1f} to {high / size:.1f} {unit}"


def _basis(stage: PlannedStage) -> str:
    if stage.basis == "measured":
        return f"measured: {stage.source}"
    if stage.basis is None:
        return stage.source
    return f"estimated, {span(*stage.seconds_range)}" if stage.seconds_range else "estimated"


def _count(value: int) -> str:
    return f"{value:,}" if value else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"
