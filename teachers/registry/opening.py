"""The registry of experts by its place: a folder, or a URL."""

from __future__ import annotations

from pathlib import Path

from common.errors import ConfigError
from configs.places import registry_place
from teachers.registry.local import Registry
from teachers.registry.remote import open_remote


def open_registry(registry: Path | str | None = None) -> Registry:
    """The registry at this folder or URL, else at `$PROTEGE_HOME`, else at `~/.protege`.

    Raises ConfigError for a file, and for a URL whose protocol is unknown or whose package is missing.
    """
    place = registry_place(registry)
    if isinstance(place, Path):
        if place.exists() and not place.is_dir():
            raise ConfigError(f"registry {place}: is a file; a registry is a folder, or a URL")
        return Registry(place)
    return open_remote(place)
