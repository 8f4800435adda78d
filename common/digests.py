"""Digests by which content is told apart, and the installed versions that stand in for code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

from common.reading import opened


def json_sha256(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(file: Path) -> str:
    """SHA-256 of the bytes as they are now; nothing is remembered. Raises ConfigError."""
    with opened(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def installed_version(package: str) -> str | None:
    """A package's version, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
