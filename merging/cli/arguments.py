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
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="Run folder [default: runs/<name>].")
]


def run_folder(loaded: LoadedConfig, run_dir: Path | None) -> Path:
    """The folder that a command works in."""
    from common.files import expanded

    return expanded(run_dir or Path("runs") / loaded.config.name).absolute()


def load(config: Path, overrides: list[str] | None) -> LoadedConfig:
    """The config with its overrides; raises ConfigError."""
    from configs.load import load_config

    return load_config(config, overrides or [])
