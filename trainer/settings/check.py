"""Refuses settings of verl's that Protege owns or that verl does not know, before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from trainer.settings.defaults import PPO, SFT
from trainer.settings.known import known, suggestions
from trainer.settings.owned import (
    CONFIG,
    FIXED,
    MERGE_FIXED,
    OBJECTIVE,
    RECIPE,
    SFT_RECIPE,
    entry,
)

Training = Literal["merge", "expert", "polish", "grpo", "sft"]

OF_ALL_TRAININGS = ("max_prompt_tokens", "too_long")
"""Keys of `training` that hold for experts too."""

FIXED_IN: Mapping[Training, Mapping[str, str]] = {"merge": MERGE_FIXED}
"""Keys that may not be changed in a training of this kind, beside those of `FIXED`."""

OWN_RECIPES: Mapping[Training, Collection[str]] = {
    "expert": OF_ALL_TRAININGS,
    "polish": (*OF_ALL_TRAININGS, "seed", "lora_rank", "lora_alpha"),
}
"""Trainings with a recipe of their own, and the keys of `training` that hold for them."""


@dataclass(frozen=True)
class Settings:
    """Settings of verl's that the config gives to one training."""

    place: str
    """Where they stand in the config."""
    training: Training
    values: Mapping[str, Any]
    """By dotted key."""
    block: str = "training"
    """The part of the config with the training's own recipe."""
    fields: Collection[str] = ()
    """Keys that this part has."""

    @property
    def trainer(self) -> str:
        """The trainer of verl's that reads them."""
        return SFT if self.training == "sft" else PPO


def problems(settings: Settings) -> Iterator[str]:
    """One message for each key that cannot be set, or not to this value."""
    for key, value in settings.values.items():
        if what := _wrong(settings, key, value):
            yield f"{settings.place}: {key}: {what}"


def _wrong(settings: Settings, key: str, value: Any) -> str | None:
    if owner := _owner(settings, key):
        return f"set by {owner}; change that instead"
    if reason := entry(FIXED, key):
        return f"Protege sets it: {reason}"
    if reason := entry(FIXED_IN.get(settings.training, {}), key):
        others = "an expert, the polish or the baseline grpo may set it (their own `verl`)"
        return f"Protege sets it: {reason}" + (f"; {others}" if reason == OBJECTIVE else "")
    found = known(settings.trainer, key)
    if found is None:
        near = " or ".join(suggestions(settings.trainer, key))
        return f"verl {version('verl')} knows no such key" + (f"; did you mean {near}?" if near else "")
    if found.is_section:
        return "is a section of verl's configuration; set the keys below it"
    return _other_type(found.default, value)


def _owner(settings: Settings, key: str) -> str | None:
    """The key of the config that sets it."""
    if owner := entry(CONFIG, key):
        return f"{settings.block}.base or student" if owner == "student" and _has_base(settings) else owner
    name = entry(SFT_RECIPE if settings.training == "sft" else RECIPE, key)
    if name is None:
        return None
    if name in settings.fields:
        return f"{settings.block}.{name}"
    if name not in OWN_RECIPES.get(settings.training, (name,)):
        return None  # the merge's recipe does not hold for it, and it has no such key of its own
    return f"training.{name}"


def _has_base(settings: Settings) -> bool:
    return "base" in settings.fields


def _other_type(default: Any, value: Any) -> str | None:
    """What is wrong with a value where verl's default shows its type; null always passes."""
    if value is None or default is None or (isinstance(default, str) and "${" in default):
        return None
    shown = f"; verl's default is {default!r}"
    if isinstance(default, bool) or isinstance(value, bool):
        wrong, wanted = not (isinstance(default, bool) and isinstance(value, bool)), _name(default)
    elif isinstance(default, int | float):
        wrong, wanted = not isinstance(value, int | float), "a number"
    else:
        wrong, wanted = not isinstance(value, type(default)), _name(default)
    return f"expected {wanted}, got {value!r}{shown}" if wrong else None


def _name(default: Any) -> str:
    words = {bool: "true or false", str: "text", list: "a list", int: "a number", float: "a number"}
    return words.get(type(default), "a mapping")
