"""The training file that verl reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import new_file
from configs.blocks.rewards import Reward, row_text
from configs.prompt_mode import PLAIN, PromptMode
from routing.routers.decisions import RoutedPrompt

if TYPE_CHECKING:
    import pyarrow


def write_parquet(
    rows: Sequence[RoutedPrompt],
    path: Path,
    rewards: Mapping[str, Reward],
    reward_scales: Sequence[float],
    loss_weights: Mapping[str, float] | None = None,
    split: str = "train",
    columns: Mapping[str, Mapping[str, float]] | None = None,
    modes: Mapping[str, PromptMode] | None = None,
) -> Path:
    """Write the rows in order, in verl's format; the file appears whole or not at all.

    Columns: `data_source` and `ability` (domain), `prompt` (chat messages, the domain's system message among
    them), `reward_model` (`style` "rule", `ground_truth` the answer as JSON text), `extra_info` (`index` row
    from 0, prompt `id`, `domain`, `reward` name, or a block's settings as JSON text, `split`), `teacher`
    (domain), `reward_scale` (lambda, float64) and `loss_weight` (float64). `reward_scales` holds an entry for
    every row, `rewards`, `loss_weights` (by default 1) and `modes` (by default plain) for every domain of the
    rows. `columns` are further ones (float64), by name, with the value of every domain.
    """
    import pyarrow

    assert rows, "a training file has rows"
    weights, further = loss_weights or {}, columns or {}
    said = {domain: row_text(reward) for domain, reward in rewards.items()}
    records = [
        {**_record(i, row, said[row.domain], split), "reward_scale": float(scale),
         "prompt": list((PLAIN if modes is None else modes[row.domain]).messages(row.prompt.messages)),
         "loss_weight": float(weights.get(row.domain, 1.0)),
         **{name: values[row.domain] for name, values in further.items()}}
        for i, (row, scale) in enumerate(zip(rows, reward_scales, strict=True))
    ]  # fmt: skip
    table = pyarrow.Table.from_pylist(records, schema=_schema(further))
    return write_whole(table, Path(path))


def write_whole(table: pyarrow.Table, path: Path) -> Path:
    """Writes the table so that the file appears whole or not at all; returns `path`."""
    import pyarrow.parquet

    with new_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return path


def _record(index: int, row: RoutedPrompt, reward: str, split: str) -> dict[str, Any]:
    return {
        "data_source": row.domain,
        "ability": row.domain,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(row.prompt.answer, ensure_ascii=False)},
        "extra_info": {
            "index": index,
            "id": row.prompt.id,
            "domain": row.domain,
            "reward": reward,
            "split": split,
        },
        "teacher": row.domain,
    }


def _schema(further: Iterable[str]) -> pyarrow.Schema:
    """The columns' types, so that they do not depend on the rows; `further` ones hold numbers."""
    import pyarrow as pa

    text = pa.string()
    extra = [("index", pa.int64())] + [(name, text) for name in ("id", "domain", "reward", "split")]
    return pa.schema(
        [
            ("data_source", text),
            ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            ("extra_info", pa.struct(extra)),
            ("teacher", text),
            ("reward_scale", pa.float64()),
            ("loss_weight", pa.float64()),
            *((name, pa.float64()) for name in further),
        ]
    )


def with_reward_scales(
    source: Path, target: Path, scales_of: Callable[[Sequence[str]], Sequence[float]]
) -> None:
    """Copies scheduled rows with another lambda each, which `scales_of` tells from the rows' teachers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    scales = scales_of(table.column("teacher").to_pylist())
    column = table.schema.get_field_index("reward_scale")
    write_whole(table.set_column(column, "reward_scale", pa.array(scales, pa.float64())), target)
