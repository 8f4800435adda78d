"""What all declared things have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # a type checker does not read `model_config`: here it learns that values cannot change
    from pydantic._internal._model_construction import ModelMetaclass

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
    class Frozen(ModelMetaclass): ...

else:
    Frozen = type(BaseModel)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""What every random generator that a run uses takes."""
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
"""Sizes that no machine reaches are slips of the pen, and no library takes them."""
Url = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+$")]


class Strict(BaseModel, metaclass=Frozen):
    """Unknown keys are refused and values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def by_kind(value: object) -> object:
    """A name in place of a block: the block of that kind with its defaults."""
    return {"kind": value} if isinstance(value, str) else value
