"""Where a model lies on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.files import expanded
from common.remote import HubFiles

MODEL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
"""What is read of a model's repository, or of an adapter's."""

OTHER_FILES = ("*/*", "consolidated*")
"""What these patterns match beside it: files in folders, and weights in a format of their maker's."""


def is_hub_name(name: str) -> bool:
    """Whether a model is named by its repository on the hub: it is no folder, nor written as a path."""
    folder = expanded(name)
    return not (folder.is_dir() or folder.is_absolute() or name.startswith((".", "~")))


def on_the_hub(name: str) -> HubFiles:
    """A model of the hub, or an adapter."""
    return HubFiles(name, "model", MODEL_FILES, OTHER_FILES)


def resolve_model(name: str, download: Sequence[str] = ()) -> Path:
    """The folder of a model: the path itself, or the local snapshot of a hub name.

    `download` are patterns of the files to fetch where the local cache lacks them; without any, nothing is
    downloaded. Raises ConfigError for what is neither.
    """
    folder = expanded(name)
    if folder.is_dir():
        return folder
    if not is_hub_name(name):
        raise ConfigError(f"{name}: no such model folder")
    if not download:
        found = on_the_hub(name).cached()
        if found is None:
            raise ConfigError(
                f"{name}: neither a model folder nor a whole model in the local Hugging Face cache; "
                "`protege fetch CONFIG` downloads the models of the hub that a config names"
            )
        return found
    try:
        return HubFiles(name, "model", tuple(download)).download()
    except ConfigError as error:
        raise ConfigError(
            f"model {name!r} is neither a folder nor a hub model that can be loaded here ({error})"
        ) from error
