"""How files are read: regular ones only, as UTF-8, of the declared type.

Whatever else lies there is refused by one message (ConfigError) that names the file, the place in it, and
what is valid. Types are pydantic's, strict, as JSON has them.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from common.errors import ConfigError
from common.words import counted

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
Line = TypeVar("Line", bytes, str)

LARGEST_FILE = 2**28
"""Bytes of a file that is read as a whole, and of a line of one that is read by lines."""

BUFFER = 2**17
"""Bytes that are read at once."""

LARGEST_NESTING = 100
"""Levels of lists and objects in a row: more than any data has, and little enough to walk through."""

UNREACHABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)

KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


# -------------------------------------------------------------------------------------------- files


@contextmanager
def opened(path: Path, what: str = "a file") -> Iterator[BufferedReader]:
    """A regular file, open for reading; `what` says in messages what it should be.

    Never waits for a writer, as opening a pipe would. Errors of reading in the block are told too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, error) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((word for test, word in KINDS if test(mode)), "a device")
        raise ConfigError(f"{path}: is {kind}; expected {what}")
    reader: Any = BufferedReader(_Ready(descriptor), BUFFER)
    with reader as file:
        try:
            yield file
        except OSError as error:
            raise _unreadable(path, error) from None


class _Ready(FileIO):
    """A file that is read as far as it is there: what a regular one of the kernel's own would wait for is an
    error."""

    def readinto(self, buffer: Any, /) -> int:
        return _there(super().readinto(buffer))

    def readall(self) -> bytes:
        return _there(super().readall())


def _there(found: T | None) -> T:
    if found is None:
        raise BlockingIOError(errno.EAGAIN, "has nothing to read now")
    return found


def _unreadable(path: Path, error: OSError | ValueError) -> ConfigError:
    return ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


@contextmanager
def reaching() -> Iterator[None]:
    """What the block cannot reach, such as a file in a folder that may not be entered, is a ConfigError."""
    try:
        yield
    except OSError as error:
        if (told := unreachable(error)) is None:
            raise
        raise ConfigError(told) from None


def unreachable(error: BaseException) -> str | None:
    """What an error says of a file that cannot be reached; None for any other error."""
    if isinstance(error, OSError) and error.errno in UNREACHABLE and error.filename is not None:
        return f"{error.filename}: cannot be reached: {error.strerror}"
    return None


def read_bytes(path: Path, what: str = "a file", largest: int = LARGEST_FILE) -> bytes:
    """The content of a regular file of at most `largest` bytes."""
    with opened(path, what) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ConfigError(f"{path}: has more than {largest} bytes; expected {what}")
    return content


def read_text(path: Path, what: str = "a text file", largest: int = LARGEST_FILE) -> str:
    """The text of a UTF-8 file, without a byte order mark."""
    try:
        return read_bytes(path, what, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); expected {what}") from None


# ----------------------------------------------------------------------------------- JSON of a type


def typed_json(content: str | bytes, shape: type[T], where: str) -> T:
    """The JSON value, of this type; `where` begins the message. Nested at most 200 levels deep."""
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_json(content, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explained(error)}") from None


def typed_value(value: Any, shape: type[T], where: str) -> T:
    """A value that was read from a JSON file, as this type."""
    return typed_json(json.dumps(value), shape, where)


def read_json(path: Path, shape: type[T], what: str = "a JSON file") -> T:
    """The value of this type in a JSON file."""
    return typed_json(read_bytes(path, what), shape, str(path))


def read_json_lines(path: Path, shape: type[T], what: str = "a file of JSON lines") -> list[T]:
    """One value of this type from each line; nothing where there is no file.

    A last line without its line break, which a killed process leaves, is left out.
    """
    if not path.exists():
        return []
    lines = read_bytes(path, what).split(b"\n")[:-1]
    return [typed_json(line, shape, f"{path}:{number}") for number, line in enumerate(lines, 1)]


@lru_cache(maxsize=256)
def _adapter(shape: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def _explained(error: ValidationError) -> str:
    """What is wrong first, and how much else is."""
    first, *more = error.errors(include_url=False)
    if first["type"] == "json_invalid":
        return f"not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    told = f"`{place.removeprefix('.')}`: " if place else ""
    if first["type"] == "missing":
        told += "is missing"
    else:
        told += f"{first['msg'].removeprefix('Input ')}, got {first['input']!r:.60}"
    return told + (f"; and {counted(len(more), 'more problem')}" if more else "")


# --------------------------------------------------------------------------------------------- rows


def json_rows(path: Path, what: str = "a file of JSON lines") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, from 1, and object of each line that is not blank; of a `.gz` the lines inside."""
    with opened(path, what) as file:
        lines: Any = gzip.GzipFile(fileobj=file) if path.name.endswith(".gz") else file
        try:
            for number, line in enumerate(lines_of(lines, path), start=1):
                if line.strip():
                    yield number, json_row(line, f"{path}:{number}")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigError(f"{path}: not a readable gzip file: {error}") from None


def lines_of(file: IO[Line], path: Path) -> Iterator[Line]:
    """The lines of an open file, of bytes or text; raises ConfigError for one that is no line of a file."""
    while line := file.readline(LARGEST_FILE + 1):
        if len(line) > LARGEST_FILE:
            raise ConfigError(f"{path}: a line has more than {LARGEST_FILE} bytes")
        yield line


def json_row(line: bytes, where: str) -> dict[str, Any]:
    """The object that a line of JSON holds; none of its keys may be given twice."""
    row = plain_json(line, where, "a line of JSON")
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a line must be a JSON object, got {row!r:.60}")
    return row


def plain_json(text: bytes, where: str, what: str = "JSON") -> Any:
    """Any JSON value; none of its objects' keys may be given twice."""
    try:
        value = json.loads(text, object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise ConfigError(f"{where}: not {what}: {error}") from None
    if text.count(b"[") + text.count(b"{") > LARGEST_NESTING and _is_deep(value):
        raise ConfigError(f"{where}: not {what}: nested deeper than {LARGEST_NESTING} levels")
    return value


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        ((key, _times),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key!r} is given twice")
    return row


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(LARGEST_NESTING):
        holders = [each.values() if isinstance(each, dict) else each for each in level if _holds(each)]
        level = [below for holder in holders for below in holder]
    return any(map(_holds, level))


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)
