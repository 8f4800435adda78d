"""Where the registry of experts is, by what a config or the environment says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from common.files import expanded

HOME = "~/.protege"
"""Registry, and local copies of remote ones, where nothing else is said."""


def is_url(place: object) -> bool:
    """Whether a registry is named by a URL, such as `s3://bucket/experts`, rather than by a folder."""
    return isinstance(place, str) and "://" in place


def registry_place(registry: Path | str | None = None) -> Path | str:
    """Where the experts are: the given folder or URL, else `$PROTEGE_HOME`, else `~/.protege`."""
    place = registry or os.environ.get("PROTEGE_HOME") or HOME
    return str(place) if is_url(place) else expanded(place)


def registry_root(registry: Path | str | None = None) -> Path:
    """The registry's folder on this machine; for a URL that of its local copies, by the URL's digest."""
    place = registry_place(registry)
    if isinstance(place, Path):
        return place
    home = os.environ.get("PROTEGE_HOME") or HOME
    digest = hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:16]
    return expanded(HOME if is_url(home) else home) / "remote" / digest
