"""Blocks of shared memory through which verl sends weights on a CPU, noted as the run's.

Their names do not tell the run, and they live for less than the time between two looks of the reaper.
"""

from __future__ import annotations

import os
from typing import Any

from trainer.processes import reaper


def note_blocks() -> None:
    """From here on each block that verl makes in this process is noted in the run's folder before."""
    from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer as transfer

    create = transfer.create_shared_memory
    if getattr(create, "notes", False):
        return

    def noted(size: int, name: str) -> Any:
        if (folder := os.environ.get("TMPDIR")) is not None:
            reaper.note(folder, f"{reaper.SHARED_MEMORY}{name}")
        return create(size, name)

    noted.notes = True  # pyright: ignore[reportFunctionMemberAccess]  a mark for the next call
    transfer.create_shared_memory = noted
