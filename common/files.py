"""Files and folders that appear whole or not at all, whenever the process ends.

Until it is whole, each lies beside its target under a hidden name, where a kill may leave it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.disk import naming
from common.errors import ConfigError

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes that Linux takes."""


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` as home folders.

    Raises ConfigError for a user who is not there, and for what no file can be called.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: this machine has no such user, whose home folder it could be") from None
    longest = max((len(os.fsencode(name)) for name in found.parts), default=0)
    if longest > LONGEST_NAME or len(os.fsencode(found)) > LONGEST_PATH:
        raise ConfigError(f"{str(path)[:60]}...: no file has so long a name (at most {LONGEST_NAME} bytes)")
    if "\0" in str(path):
        raise ConfigError(f"{path!r}: no file has a NUL in its name")
    return found


def is_file_name(name: str) -> bool:
    """Whether a file of a folder can have this name."""
    is_plain = Path(name).name == name != ".." and name.isprintable()
    return is_plain and 0 < len(os.fsencode(name)) <= LONGEST_NAME


def hidden_name(name: str) -> str:
    """What a file or folder is called, beside its place, while it is not whole; every call has another."""
    return f".{name}.{uuid.uuid4().hex[:8]}.tmp"


def is_hidden_name(name: str) -> bool:
    """Whether `hidden_name` may have made this name."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", name) is not None


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path to write to; the file there takes the target's place when the block ends without an error.

    Folders that are missing are made. Raises OSError where the target cannot be written; of a full disk it
    names the target.
    """
    if not is_file_name(target.name):
        raise OSError(errno.EINVAL, "it is not the name of a file", str(target))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "a device, socket or pipe is there", str(target))  # and would be replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(hidden_name(target.name))
    try:
        with naming(target):
            yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, replace: bool = True) -> Iterator[Path]:
    """A folder to fill that takes the target's place when the block ends without an error.

    With `replace=False` only the place of nothing, or of an empty folder. Raises OSError where the target
    cannot be written, or may not be replaced; of a full disk it names the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(hidden_name(target.name))
    temporary.mkdir()
    try:
        with naming(target):
            yield temporary
        if replace and target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def share(folder: Path) -> None:
    """Lets whoever may read the folder read the new files in it: safetensors makes its files for their owner
    alone, whatever the umask."""
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(file.stat().st_mode | folder.stat().st_mode & 0o666)


def remove_folder(folder: Path) -> None:
    """Deletes a folder, if it is there, so that it is whole or gone; raises OSError where it cannot."""
    hidden = folder.with_name(hidden_name(folder.name))
    try:
        folder.rename(hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Deletes the hidden folders that stopped processes left beside this one."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def write_text(target: Path, text: str, errors: str = "strict") -> None:
    """Writes a UTF-8 file, whole or not at all.

    Raises UnicodeEncodeError for lone surrogates; with `errors="replace"` a question mark stands for each.
    """
    with new_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def append_line(target: Path, line: str) -> None:
    """Adds to a file that grows a line at a time; the OSError of a full disk names it."""
    cut_unfinished_line(target)
    with naming(target), target.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def cut_unfinished_line(path: Path) -> None:
    """Removes what a killed process, or a full disk, left behind the last line break."""
    if not path.exists() or not (size := path.stat().st_size):
        return
    with path.open("rb") as file:
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def json_text(value: Any) -> str:
    """Indented JSON; raises TypeError for a value that JSON does not know."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON with one row per line; raises TypeError for a value that JSON does not know."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(target: Path, value: Any) -> None:
    """Writes `json_text(value)`, whole or not at all."""
    write_text(target, json_text(value))
