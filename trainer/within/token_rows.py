"""The rows of a supervised fine-tuning, as verl's SFT trainer reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class TokenRows(torch.utils.data.Dataset):
    """Rows of token ids as they are, for verl's `data.custom_cls`; the loss is on the response alone.

    verl's own data set would render a conversation again by the chat template, which need not give the tokens
    that a model reads and writes when it answers.
    """

    def __init__(
        self,
        parquet_files: Sequence[str],
        tokenizer: Any = None,
        config: Any = None,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        import pyarrow.parquet as pq

        tables = [pq.read_table(file, columns=["prompt_ids", "response_ids"]) for file in parquet_files]
        rows = [row for table in tables for row in table.to_pylist()]
        self.rows = rows if max_samples < 0 else rows[:max_samples]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids` and `loss_mask`, each [tokens]."""
        prompt, response = self.rows[place]["prompt_ids"], self.rows[place]["response_ids"]
        ids = torch.tensor(prompt + response)
        mask = torch.tensor([0] * len(prompt) + [1] * len(response))
        return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}
