"""Where prompts come from, as declared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from configs.strict import Strict


class PromptColumns(Strict):
    """Where a prompt source keeps what we need; every named column must exist."""

    prompt: str = "prompt"
    """Column with the prompt: text, or a list of chat messages."""
    answer: str | None = "answer"
    """Column with what the reward checks against (a text, a number, or any JSON value)."""


class FilePrompts(Strict):
    """Prompts in a local file: `.jsonl`, `.parquet` or `.csv`."""

    kind: Literal["file"] = "file"
    path: Path
    """File; a relative path is read from the config file's folder."""
    columns: PromptColumns = PromptColumns()
    """Names of the columns."""
    limit: PositiveInt | None = None
    """Use only the first so many rows."""


class HubPrompts(Strict):
    """Prompts in a Hugging Face dataset, from the hub or the local cache."""

    kind: Literal["hub"]
    path: str
    """Dataset name, such as `Keven16/G-OPD-Training-Data`."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit or tag; pin it for a reproducible run."""
    data_files: str | None = None
    """File or pattern within the dataset's repository."""
    columns: PromptColumns = PromptColumns()
    """Names of the columns; a dot reaches into a nested column (`extra_info.answer`)."""
    limit: PositiveInt | None = None
    """Use only the first so many rows."""


Prompts = Annotated[FilePrompts | HubPrompts, Field(discriminator="kind")]
