"""verl's reader of the training rows where their order is decided while the student trains.

Loaded by verl in the process that trains and validates (`data.custom_cls`), whose data loader asks for a
step's rows as the step begins and not before.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset

from merging.exopd.gap.shares import PoolReader, Reading


class GapRows(RLHFDataset):
    """The rows of a training over a pool of prompts; row i is known once the validations before it are done.

    It keeps no state of its own: `validation.jsonl` of the training says all.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        reading: Any = OmegaConf.to_container(self.config.gap)
        self.reader = PoolReader(Reading.from_json(reading), self.dataframe["teacher"][:])

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, item: int) -> dict[str, Any]:
        row = super().__getitem__(self.reader.row_at(item))
        return self.reader.placed(row, item) | {"index": item}
