"""What a run holds, by part: on a device, in main memory, on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.words import gb
from trainer.memory import Parts, peak_phase


@dataclass(frozen=True)
class Held:
    """What one part of a run holds on its fullest device, or in one machine's main memory."""

    title: str
    """`merge`, `expert <domain>`, `teacher server`, or `main memory`."""
    phases: Mapping[str, Parts]
    """Bytes by phase and part; empty where they are not modelled."""
    available: int | None = None
    """Bytes that there are; None where nobody knows."""
    not_modelled: str | None = None
    """Why there are no numbers."""

    @property
    def phase(self) -> str:
        """The phase that takes most."""
        return peak_phase(self.phases)

    @property
    def parts(self) -> Parts:
        """What is held then."""
        return self.phases[self.phase] if self.phases else {}

    @property
    def bytes(self) -> int:
        """Their sum; 0 where nothing is modelled."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether that is there, as far as is known."""
        return self.available is None or self.bytes <= self.available

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the phase that takes most and its sum."""
        peak = {"peak_phase": self.phase, "peak_bytes": self.bytes} if self.phases else {}
        return {**asdict(self), **peak}


def parts_text(parts: Parts) -> str:
    """The parts, largest first, such as `rollout and its cache 40.0 GB, scorer 8.0 GB`."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gb(size)}" for name, size in ordered if size)
