"""What all declared things have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
Url = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+$")]


class Strict(BaseModel):
    """Unknown keys are refused and values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def by_kind(value: object) -> object:
    """A name in place of a block: the block of that kind with its defaults."""
    return {"kind": value} if isinstance(value, str) else value
