"""Kinds of damage to a file: to the whole of it, and to the values in it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Damage = Callable[[Path], None]
"""Does something to a file."""


# -------------------------------------------------------------------------------------- whole files


def _rewritten(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: _replace(path, change(path.read_bytes()))


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _instead(make: Callable[[Path], object]) -> Damage:
    def apply(path: Path) -> None:
        path.unlink()
        make(path)

    return apply


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)  # a longer path is none of a socket's


FILES: dict[str, Damage] = {
    "empty": _rewritten(lambda _: b""),
    "cut in half": _rewritten(lambda content: content[: len(content) // 2]),
    "cut at its end": _rewritten(lambda content: content[:-3]),
    "cut near its end": _rewritten(lambda content: content[: -len(content) // 9]),
    "twice": _rewritten(lambda content: content * 2),
    "a bit changed": _rewritten(lambda content: _flipped(content, len(content) // 3)),
    "a page of a server's": _rewritten(lambda _: b"<!DOCTYPE html><html><body>404</body></html>"),
    "binary": _rewritten(lambda _: bytes(range(256)) * 4),
    "not UTF-8": _rewritten(lambda content: content[:5] + b"\xff\xfe" + content[5:]),
    "a NUL": _rewritten(lambda content: content[:7] + b"\0" + content[7:]),
    "UTF-16": _rewritten(lambda content: content.decode("latin-1").encode("utf-16")),
    "a byte order mark": _rewritten(lambda content: b"\xef\xbb\xbf" + content),
    "deep lists": _rewritten(lambda _: b"[" * 100_000),
    "deep objects": _rewritten(lambda _: b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
    "a list": _rewritten(lambda _: b"[1, 2]\n"),
    "null": _rewritten(lambda _: b"null\n"),
    "a text": _rewritten(lambda _: b'"text"\n'),
    "a huge number": _rewritten(lambda _: b'{"a": ' + b"9" * 6000 + b"}\n"),
    "an LFS pointer": _rewritten(lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "a pipe": _instead(os.mkfifo),
    "a folder": _instead(Path.mkdir),
    "a link to nowhere": _instead(lambda path: path.symlink_to("nowhere")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "a socket": _instead(lambda path: _bind(path)),
    "a terminal": _instead(lambda path: path.symlink_to("/dev/tty")),
    "a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "unreadable": _instead(lambda path: path.symlink_to("/proc/self/mem")),
    "gone": lambda path: path.unlink(),
}
"""Damage that any file can take."""


# ------------------------------------------------------------------------------------------- values

VALUES: dict[str, Any] = {
    "null": None,
    "a list": [[]],
    "an object": {"x": {"y": []}},
    "an empty text": "",
    "a text": "text",
    "a long text": "x" * 5000,
    "a NUL": "a\0b",
    "half a character": "\ud800",
    "a home of nobody": "~no-such-user/x",
    "a device": "/dev/zero",
    "a pattern without end": r"(([a-z_0-9]|\.)+)+X",
    "half a pattern": "(",
    "true": True,
    "a negative number": -1,
    "nothing": 0,
    "a fraction": 0.5,
    "a large number": 10**30,
    "a number of 4,000 digits": 10**3999,
    "infinity": float("inf"),
    "no number": float("nan"),
    "a deep list": json.loads("[" * 150 + "]" * 150),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value below its root; of a list the first item alone."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, below in inside:
        yield (*path, key)
        if isinstance(below, dict | list):
            yield from places(below, (*path, key))


def with_value(whole: Any, place: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(whole)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def without(whole: Any, place: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(whole)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return changed


def value_cases(path: Path, rng: random.Random, count: int) -> Iterator[tuple[str, Damage]]:
    """Damage to the values of a file of JSON, JSON lines (its first) or YAML, drawn without repetition."""
    read, write = FORMATS["".join(path.suffixes[-1:])]
    whole = read(path)
    drawn = [(place, name) for place in places(whole) for name in (*VALUES, "left out")]
    for place, name in rng.sample(drawn, min(count, len(drawn))):
        changed = without(whole, place) if name == "left out" else with_value(whole, place, VALUES[name])
        shown = ".".join(map(str, place))

        def apply(target: Path, changed: Any = changed) -> None:
            write(target, changed)

        yield f"{shown}: {name}", apply


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))  # JSON is YAML, and says what PyYAML would dress up


FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], None]]] = {
    ".json": (
        lambda path: json.loads(path.read_text()),
        lambda path, v: path.write_text(json.dumps(v)) and None,
    ),
    ".jsonl": (_read_lines, _write_lines),
    ".yaml": (lambda path: yaml.safe_load(path.read_text()), _write_yaml),
}


def _doubling(first: str, each: str) -> str:
    """A line, and nine more of which each refers nine times to the one before."""
    names = "abcdefghij"
    pairs = itertools.pairwise(names)
    return first + "".join(f"{b}: &{b} {each.format(','.join([f'*{a}'] * 9))}\n" for a, b in pairs)


YAML_TEXTS: dict[str, str] = {
    "a bomb of aliases": _doubling("a: &a [x,x,x,x,x,x,x,x,x]\n", "[{}]"),
    "a bomb of merges": _doubling("a: &a {p: 1, q: 2}\n", "{{<<: [{}]}}"),
    "an alias in itself": "a: &a [*a]\n",
    "an unknown alias": "a: *b\n",
    "a Python object": "a: !!python/object/apply:os.system [id]\n",
    "a set": "a: !!set {x, y}\n",
    "binary": "a: !!binary aGk=\n",
    "a date": "training: {steps: 2001-01-01}\n",
    "a day that is none": "training: {steps: 2001-99-99}\n",
    "an octal number": "training: {steps: 010}\n",
    "sixties": "training: {steps: 1:30}\n",
    "yes": "name: yes\n",
    "a key that is a list": "? [a]\n: 1\n",
    "a key that is no text": "domains: {on: {}}\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a key twice": "training: {steps: 1}\ntraining: {steps: 2}\n",
    "tabs": "training:\n\tsteps: 1\n",
    "deep": "a: " + "[" * 5000,
    "deep and closed": "a: " + "[" * 60 + "]" * 60,
    "many keys": "".join(f"k{i}: 1\n" for i in range(5000)),
    "large": "a: [" + "1, " * 100_000 + "1]\n",
    "a control character": "name: \x07\n",
    "nothing": "\n",
    "a text": "text\n",
    "a list": "- 1\n",
}
"""Texts that replace a config, or are laid over its end."""
