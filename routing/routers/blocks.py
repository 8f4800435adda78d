"""Work on many prompts, some at a time: what a block of them needs is freed before the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

BLOCK = 512
"""Prompts at a time."""


def by_blocks(work: Callable[[Any], np.ndarray], rows: Any) -> np.ndarray:
    """`work(rows)`, [rows, ...], made of its results on blocks of the rows; there is at least one row."""
    import numpy as np

    return np.concatenate([work(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)])
