"""Prompts written in the formats that sources read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.blocks.prompts import LocalPrompts
from tests.helpers.tiny_model import write_jsonl

Rows = list[dict[str, Any]]


def write_rows(folder: Path, rows: Rows) -> Path:
    """`rows.jsonl` in the folder."""
    return write_jsonl(folder / "rows.jsonl", rows)


def write_folder(folder: Path, rows: Rows) -> Path:
    """A row a file; what is no prompt file, or is hidden, is left alone."""
    for number, row in enumerate(rows):
        write_jsonl(folder / f"part-{number}.jsonl", [row])
    (folder / "README.md").write_text("about these prompts")
    (folder / ".hidden.jsonl").write_text("not JSON")
    return folder


def write_parquet_rows(folder: Path, rows: Rows) -> Path:
    """`rows.parquet` in the folder."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def save_local(folder: Path, rows: Rows, **settings: Any) -> LocalPrompts:
    """A data set that `save_to_disk` wrote."""
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    return LocalPrompts(kind="local", path=folder / "saved", **settings)


def paper_row(number: int, teacher: str | None, ability: str = "math") -> dict[str, Any]:
    """A row as the G-OPD paper's data has it: `ability` need not agree with the teacher."""
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": f"q{number}"}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": f"a{number}"},
        "extra_info": {"index": number, "opd_teacher": teacher},
    }
