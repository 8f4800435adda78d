"""The training file that verl reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.rewards import Reward, row_text
from routing.routers import RoutedPrompt


def write_parquet(
    rows: Sequence[RoutedPrompt],
    path: Path,
    rewards: Mapping[str, Reward],
    reward_scales: Sequence[float],
    loss_weights: Mapping[str, float] | None = None,
    split: str = "train",
) -> Path:
    """Write the rows in order, in verl's format; the file appears whole or not at all.

    Columns: `data_source` and `ability` (domain), `prompt` (chat messages), `reward_model` (`style`
    "rule", `ground_truth` the answer as JSON text), `extra_info` (`index` row from 0, prompt `id`,
    `domain`, `reward` name, or a block's settings as JSON text, `split`), `teacher` (domain),
    `reward_scale` (lambda, float64) and `loss_weight` (float64). `reward_scales` holds an entry for every
    row, `rewards` and `loss_weights` (by default 1) for every domain of the rows.
    """
    import pyarrow

    assert rows, "a training file has rows"
    weights = loss_weights or {}
    said = {domain: row_text(reward) for domain, reward in rewards.items()}
    records = [
        {**_record(i, row, said[row.domain], split), "reward_scale": float(scale),
         "loss_weight": float(weights.get(row.domain, 1.0))}
        for i, (row, scale) in enumerate(zip(rows, reward_scales, strict=True))
    ]  # fmt: skip
    table = pyarrow.Table.from_pylist(records, schema=_schema())
    return write_whole(table, Path(path))


def write_whole(table, path: Path) -> Path:
    """Writes the table so that the file appears whole or not at all; returns `path`."""
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pyarrow.parquet.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _record(index: int, row: RoutedPrompt, reward: str, split: str) -> dict[str, Any]:
    return {
        "data_source": row.domain,
        "prompt": list(row.prompt.messages),
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


def _schema():
    """The columns' types, so that they do not depend on the rows."""
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
        ]
    )


def with_reward_scales(
    source: Path, target: Path, prompts_per_step: int, scale_of: Callable[[str, int], float]
) -> None:
    """Copies scheduled rows with another lambda each: `scale_of(teacher, step)`, steps counted from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    scales = [
        scale_of(teacher, 1 + place // prompts_per_step)
        for place, teacher in enumerate(table.column("teacher").to_pylist())
    ]
    column = table.schema.get_field_index("reward_scale")
    write_whole(table.set_column(column, "reward_scale", pa.array(scales, pa.float64())), target)
