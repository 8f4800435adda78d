"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from configs.load import LoadedConfig

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the merge.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a config value, such as training.steps=10."),
]


def load(config: Path, overrides: list[str] | None) -> LoadedConfig:
    """The config with its overrides; raises ConfigError."""
    from configs.load import load_config

    return load_config(config, overrides or [])
