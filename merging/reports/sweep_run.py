"""One run of a sweep's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.load import LoadedConfig


@dataclass(frozen=True, eq=False)
class SweepRun:
    """One point of the grid."""

    reward_scale: float
    seed: int
    loaded: LoadedConfig
    path: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.path.name
