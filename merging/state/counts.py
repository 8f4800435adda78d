"""What a run's folder says of its prompts: what became of them, and what the router told of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Required

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, model_validator
from typing_extensions import TypedDict

from common.reading import read_bytes, read_json, typed_json

ByDomain = dict[str, int]


class Counts(TypedDict, total=False):
    """The file `prompts/counts.json`; a run of an earlier version kept less."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyright: ignore[reportGeneralTypeIssues]  (pydantic's)
    prompts: Required[ByDomain]
    rows: Required[ByDomain]
    shares: dict[str, FiniteFloat]
    share_range: tuple[FiniteFloat, FiniteFloat]
    dropped: dict[str, ByDomain]
    conflicts: ByDomain | Literal[0] | None
    overlaps: dict[str, ByDomain]
    notes: list[str]
    overlap_notes: list[str]
    rewards: dict[str, str]
    all_answered: bool


def read_counts(run: Path) -> Counts:
    """Those of a run's folder."""
    return read_json(run / "prompts" / "counts.json", Counts, "the counts of a run's prompts")


def read_router(path: Path) -> dict[str, Any]:
    """What a router measured of itself, as `routing.routers.wording` tells it."""
    content = read_bytes(path, "what a router told of itself")
    typed_json(content, _Router, str(path))
    return typed_json(content, dict[str, Any], str(path))


class _Share(BaseModel):
    accuracy: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat]
    n: int


class _Error(BaseModel):
    before: FiniteFloat
    after: FiniteFloat


class _Bin(BaseModel):
    start: Annotated[FiniteFloat, Field(alias="from")]
    to: FiniteFloat
    prompts: int


class _Rule(BaseModel):
    rule: str
    prompts: int


class _Measured(BaseModel):
    unlabelled: int
    tested: _Share | None = None
    against: str | None = None
    tested_above_threshold: _Share | None = None
    calibration_error: _Error | None = None
    temperature: FiniteFloat | None = None
    confusion: dict[str, ByDomain] | None = None
    histogram: list[_Bin] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> _Measured:
        if self.tested is not None and self.against is None:
            raise ValueError("`against` is missing beside `tested`")
        if self.calibration_error is not None and self.temperature is None:
            raise ValueError("`temperature` is missing beside `calibration_error`")
        return self


class _Rules(_Measured):
    kind: Literal["rules"]
    matches: list[_Rule]
    unmatched: int


class _Learned(_Measured):
    kind: Literal["learned"]
    features: str
    undecided: int
    unlike: int
    threshold: FiniteFloat
    otherwise: str


class _Agreement(_Measured):
    kind: Literal["agreement"]
    signal: str
    under_margin: int
    margin: FiniteFloat
    otherwise: str


class _Router(RootModel[Annotated[_Rules | _Learned | _Agreement, Field(discriminator="kind")]]):
    pass
