"""An expert's files: their digests, whether they are those that were recorded, and copies of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from common.digests import file_sha256
from common.files import is_hidden_name
from teachers.models.files import weight_files
from teachers.registry.records import RECORD

Names = dict[str, str]
"""SHA-256 by path within the expert's folder."""

OTHER_FORMATS = {".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".onnx", ".ot", ".safetensors"}
"""Weights in the same folder that are not those that are read."""


def files_in(folder: Path) -> dict[str, Path]:
    """Every file by its path within the folder, sorted; without the record, and what killed writes left."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {name: found[name] for name in sorted(found) if name != RECORD and not is_hidden_name(name)}


def digests(folder: Path) -> Names:
    """SHA-256 of every file but the record."""
    return {name: file_sha256(file) for name, file in files_in(folder).items()}


def size(folder: Path) -> int:
    """Bytes of all files but the record."""
    return sum(file.stat().st_size for file in files_in(folder).values())


def differences(
    recorded: Mapping[str, str], found: Iterable[str], digest: Callable[[str], str]
) -> Iterator[str]:
    """Each file that is missing, was added or was changed, in words; `digest` reads a found file."""
    names = set(found)
    for name in sorted(recorded.keys() | names):
        if name not in names:
            yield f"{name} is missing"
        elif name not in recorded:
            yield f"{name} was added"
        elif (now := digest(name)) != recorded[name]:
            yield f"{name} was changed (sha256 {now[:12]}, recorded {recorded[name][:12]})"


def copy_model(source: Path, target: Path) -> None:
    """Copies what a model folder needs into a new folder, by hard links where the disk allows it.

    Sub-folders, hidden files and weights in formats that are not read stay behind.
    """
    target.mkdir()
    weights = {"adapter_model.safetensors"}
    if not (source / "adapter_model.safetensors").is_file():
        weights = {file.name for file in weight_files(source)}
    for file in sorted(source.iterdir()):
        other = file.suffix in OTHER_FORMATS and file.name not in weights
        if file.is_file() and not file.name.startswith(".") and not other:
            _link(file.resolve(), target / file.name)  # a hub's cache holds links to its blobs


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)
