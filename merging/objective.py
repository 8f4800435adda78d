"""The stable import path of the advantage: other tools rely on `merging.objective.gopd_advantage`."""

from merging.exopd.objective import gopd_advantage

__all__ = ["gopd_advantage"]
