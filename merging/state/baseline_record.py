"""The block that a baseline was made by, kept in its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from common.files import write_json
from common.progress import say
from common.reading import read_json
from configs.blocks.baselines import Baseline

RECORD = "baseline.json"
"""File in the folder of a baseline's model, or of its training, with the block that it was made by."""


def write_record(baseline: Baseline, folder: Path) -> None:
    """Says in a baseline's folder which block it was made by."""
    write_json(folder / RECORD, _block(baseline))


def is_made(baseline: Baseline, folder: Path) -> bool:
    """Whether the folder, of the baseline's model or of its training, was made by the same block.

    A folder without a record was made by a kind without options; the folder's name is the kind.
    """
    if not folder.exists():
        return False
    record = folder / RECORD
    made_by = {"kind": folder.name}
    if record.exists():
        made_by = read_json(record, dict[str, Any], "the record of a baseline")
    return made_by == _block(baseline)


def open_work(baseline: Baseline, work: Path) -> None:
    """Leaves a folder whose checkpoints, if any, are of a training by the same options."""
    if is_made(baseline, work):
        return
    if work.exists():
        say(f"baseline {baseline.kind}: its options have changed, so its training starts anew")
        shutil.rmtree(work)
    write_record(baseline, work)


def options(baseline: Baseline) -> dict[str, float | int]:
    """The block's own options, without what it leaves to the merge, and without settings of verl's."""
    return baseline.model_dump(exclude={"kind", "verl"}, exclude_none=True)


def _block(baseline: Baseline) -> dict[str, str | float | int]:
    """The block as its record holds it."""
    return baseline.model_dump(mode="json", exclude_none=True)
