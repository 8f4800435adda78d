"""How the domains' prompts are mixed into the steps of the merge, as declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, field_validator, model_validator

from configs.blocks.strict import Name, Strict, by_kind


class ShuffledOrder(Strict):
    """A domain's prompts come in a seeded random order, anew in every pass over them."""

    sorts: ClassVar[bool] = False
    """Whether a training's rows are sorted, which depends on how many there are."""
    column: ClassVar[None] = None

    kind: Literal["shuffled"]


class CurriculumOrder(Strict):
    """A domain's prompts come from easy to hard over the whole training; equal ones in the shuffled order."""

    sorts: ClassVar[bool] = True

    kind: Literal["curriculum"]
    by: Literal["length", "column"] = "length"
    """What tells easy from hard: the prompt's length in characters, or a column of its source."""
    column: str | None = None
    """With `by: column`: the column with a number, small for easy prompts; a dot reaches into a nested
    one."""

    @model_validator(mode="after")
    def _column_is_read_where_given(self) -> CurriculumOrder:
        if self.by == "column" and not self.column:
            raise ValueError("`by: column` needs `column`, the column that holds each prompt's difficulty")
        if self.by == "length" and self.column is not None:
            raise ValueError("`column` is read with `by: column` only; leave it out")
        return self


OneOrder = Annotated[ShuffledOrder | CurriculumOrder, Field(discriminator="kind")]
OrderName = Literal["shuffled", "curriculum"]
Order = Annotated[OneOrder, BeforeValidator(by_kind, json_schema_input_type=OrderName | OneOrder)]
"""A block, or a kind alone."""

SHUFFLED = ShuffledOrder(kind="shuffled")


class BalancedMixing(Strict):
    """Every domain is down-sampled to the smallest one's prompts, and has the same share of every step."""

    kind: Literal["balanced"]
    order: Order = SHUFFLED
    """Order of a domain's prompts, by name or as a block."""


class WeightedMixing(Strict):
    """Every domain has the share of every step that its weight says; all of its prompts are used."""

    kind: Literal["weighted"]
    weights: Annotated[dict[Name, PositiveFloat], Field(min_length=1)]
    """Weight of each domain, all of them named; a share is a weight divided by their sum."""
    order: Order = SHUFFLED
    """Order of a domain's prompts, by name or as a block."""


class TemperatureMixing(Strict):
    """A domain with n prompts has a share of every step in proportion to n^(1/T); all prompts are used."""

    kind: Literal["temperature"]
    temperature: PositiveFloat
    """T: at 1 the shares are those of the numbers of prompts; the larger, the more equal they are."""
    order: Order = SHUFFLED
    """Order of a domain's prompts, by name or as a block."""


Fraction01 = Annotated[float, Field(gt=0, le=1)]


class GapMixing(Strict):
    """A domain's share of every step follows the distance of its validation accuracy to its optimum; shares
    are planned anew after every validation while the student trains, and all prompts are used."""

    kind: Literal["gap"]
    floor: Fraction01 = 0.25
    """Least share of a domain, as a part of the equal share: 0.25 with two domains is 12.5% of every step,
    and 1 keeps all shares equal."""
    optimum: dict[Name, Fraction01] = Field(default={})
    """Accuracy that each domain's validation can reach; 1 for a domain that is not named."""
    order: Order = SHUFFLED
    """Order of a domain's prompts: `shuffled`."""

    @field_validator("order")
    @classmethod
    def _rows_are_not_known_beforehand(cls, value: Order) -> Order:
        if value.sorts:
            raise ValueError(
                "a curriculum sorts all rows that a domain will have, and with kind: gap their number is "
                "decided while the student trains; valid: shuffled"
            )
        return value

    def check_validations(self, domains: Sequence[str], validated: Sequence[str], every: int | None) -> None:
        """Raises ValueError for domains whose distance to the optimum would not be known, or that are not
        declared. `validated` are those with `validation` prompts, `every` is `training.validate_every`."""
        strange = [name for name in self.optimum if name not in domains]
        if strange:
            raise ValueError(f"mixing.optimum: {strange[0]!r} is no domain; valid: {', '.join(domains)}")
        if every is None:
            raise ValueError(
                "mixing: gap plans the domains' shares by validations, and there are none; set "
                "training.validate_every, the steps between them, or choose another mixing"
            )
        bare = [name for name in domains if name not in validated]
        if bare:
            raise ValueError(
                "mixing: gap plans by the distance of every domain to its optimum, and domain "
                f"{bare[0]!r} has no validation prompts; give domains.{bare[0]}.validation (prompts with "
                "answers that nothing trains on), or choose another mixing"
            )


OneMixing = Annotated[
    BalancedMixing | WeightedMixing | TemperatureMixing | GapMixing, Field(discriminator="kind")
]
MixingName = Literal["balanced", "gap"]  # the others need more than their kind
Mixing = Annotated[OneMixing, BeforeValidator(by_kind, json_schema_input_type=MixingName | OneMixing)]
"""A block, or a kind alone."""

BALANCED = BalancedMixing(kind="balanced")
