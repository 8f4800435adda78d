"""One stage of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Basis = Literal["measured", "estimated"]
"""What a time rests on: steps that were measured, or arithmetic."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the run."""

    name: str
    state: str
    """`done`, `found in the registry`, `given`, `continues at step N`, or `to do`."""
    steps: int = 0
    """Optimizer steps that are left."""
    rollouts: int = 0
    """Rollouts that are left, those of validations included."""
    scorer_passes: int = 0
    """Forward passes of teachers and reference that are left."""
    seconds: float | None = None
    """How long the rest takes; None where nothing is left, and where it is neither measured nor modelled."""
    basis: Basis | None = None
    source: str = ""
    """What was measured, or why there is no time."""
    seconds_range: tuple[float, float] | None = None
    """Where lengths of answers are assumed: the same with answers of half and of twice that length."""
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of a step by part, by arithmetic; empty where nothing is modelled."""
    device_hours: float | None = None
    """Time times the devices that the run keeps."""
    price: float | None = None
    """By `hardware.price_per_device_hour`."""
    validations: int = 0
    """Validations that are left."""

    @property
    def is_left(self) -> bool:
        """Whether anything is left to do."""
        return self.state == "to do" or self.state.startswith(CONTINUES)


CONTINUES = "continues"


def progress(done: int) -> str:
    """The state of a training with so many steps behind it."""
    return f"{CONTINUES} at step {done}" if done else "to do"
