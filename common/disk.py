"""A full disk: which errors mean one, and what a person is told.

Libraries hide it. safetensors and torch raise errors of their own, of which the text or the error that came
before says it; an error of a file that was open already names no file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.words import gb

ERRORS = (errno.ENOSPC, errno.EDQUOT)
WORDS = ("No space left on device", "Disk quota exceeded", "OutOfDiskError")
"""How the kernel, and Ray, say it; parts of the texts of other libraries' errors."""

LITTLE_BYTES, LITTLE_SHARE = 64 << 20, 0.01
"""A file system with less free than both of these counts as full once something has failed."""


def says_full(text: str) -> bool:
    """Whether an error's text says that a disk or a quota is full."""
    return any(words in text for words in WORDS)


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, says so."""
    return any(_is_it(each) for each in _chain(error))


def full_path(error: BaseException | None) -> Path | None:
    """The file that could not be written, where the error names it."""
    for each in _chain(error):
        if isinstance(each, OSError) and _is_it(each):
            named = each.filename2 if each.filename2 is not None else each.filename
            if isinstance(named, str | os.PathLike):
                return Path(named)
    return None


def full_places(places: Iterable[Path]) -> list[Path]:
    """Those of the places whose file system has next to nothing free, one for each file system."""
    found: dict[int, Path] = {}
    for place in places:
        there = _there(place)
        if _is_short(there):
            found.setdefault(there.stat().st_dev, place)
    return list(found.values())


def sentence(places: Iterable[Path]) -> str:
    """What a full disk at these places is told as, with what would help."""
    told = " and ".join(_told(place) for place in places)
    return (
        f"no space left on device{f': {told}' if told else ''}; make room there, and the same command "
        "continues where it stopped"
    )


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """An error of a full disk in the block becomes an OSError that names what was being written."""
    try:
        yield
    except Exception as error:
        if not is_full(error) or full_path(error) is not None:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_it(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in ERRORS) or says_full(str(error))


def _there(place: Path) -> Path:
    """The place, or the nearest folder above it that exists."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())


def _is_short(place: Path) -> bool:
    usage = shutil.disk_usage(place)
    return usage.total > 0 and usage.free < min(LITTLE_BYTES, LITTLE_SHARE * usage.total)


def _told(place: Path) -> str:
    usage = shutil.disk_usage(_there(place))
    return f"{place} ({gb(usage.free)} of {gb(usage.total)} free)"
