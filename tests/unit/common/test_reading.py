"""What is read of files: whatever lies there, one message with the file and the place in it."""

import gzip
import json
import os
from dataclasses import dataclass

import pytest

from common import reading
from common.errors import ConfigError
from tests.helpers.messages import refuses


@dataclass(frozen=True)
class Point:
    """A record of the tests."""

    x: float
    name: str = "origin"


def test_a_typed_value(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert reading.read_json(tmp_path / "a.json", Point) == Point(1.0)


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b'{"x": "1"}', ("`x`", "number", "'1'")),
        (b'{"x": true}', ("`x`", "True")),
        (b"{}", ("`x`", "missing")),
        (b"[]", ("object", "[]")),
        (b'{"x": 1', ("JSON", "line 1 column 7")),
        (b'{"x":\n', ("JSON", "line 2")),
        (b"", ("JSON",)),
        (b'{"x": 1, "name": "\xff"}', ("JSON",)),
        (b'{"x": 1, "name": "\\ud800"}', ("JSON",)),
        (b"[" * 5000, ("JSON", "recursion limit")),
        (b'{"x": ' + b"9" * 5000 + b"}", ("JSON", "out of range")),
        (b'{"x": 1, "name": "a\0"}', ("JSON", "control character")),
    ],
)
def test_other_values(tmp_path, content, facts):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with refuses(path, *facts):
        reading.read_json(path, Point)


FIND = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "no such file": lambda path: path.symlink_to("nowhere"),
    "cannot be read": lambda path: path.symlink_to("/proc/self/mem"),
    "symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("what", FIND)
@pytest.mark.timeout(10)
def test_what_is_no_file(tmp_path, what):
    path = tmp_path / "a"
    FIND[what](path)
    for read in (reading.read_bytes, reading.read_text, lambda path: list(reading.json_rows(path))):
        with refuses(path, what):
            read(path)


def test_a_file_that_is_too_large(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert reading.read_bytes(tmp_path / "a", largest=5) == b"12345"
    with refuses("more than 4 bytes", "a small file"):
        reading.read_bytes(tmp_path / "a", "a small file", largest=4)


def test_text_is_utf_8_without_its_mark(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffö".encode())
    assert reading.read_text(tmp_path / "a") == "ö"
    (tmp_path / "a").write_bytes(b"ab\xff")
    with refuses("UTF-8", "byte 2"):
        reading.read_text(tmp_path / "a")


def test_lines_that_were_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    assert reading.read_json_lines(path, Point) == []
    path.write_text('{"x": 1}\n{"x": 2}\n{"x": 3')
    assert reading.read_json_lines(path, Point) == [Point(1.0), Point(2.0)]
    path.write_text('{"x": 1}\n{"x": null}\n')
    with refuses(f"{path}:2", "`x`", "None"):
        reading.read_json_lines(path, Point)


def test_rows_of_both_kinds(tmp_path):
    content = b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}'
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert list(reading.json_rows(tmp_path / name)) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(("levels", "is_read"), [(100, True), (101, False), (5000, False)])
def test_rows_are_nested_only_so_deep(levels, is_read):
    row = b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    if is_read:
        assert reading.json_row(row, "a:1") == json.loads(row)
        return
    with pytest.raises(ConfigError, match="a:1"):
        reading.json_row(row, "a:1")


def test_a_file_that_has_nothing_to_read_now_is_not_waited_for(tmp_path, monkeypatch):
    """Some files of the kernel's are regular and make a reader wait, as a pipe does."""
    os.mkfifo(tmp_path / "kmsg")
    writer = os.open(tmp_path / "kmsg", os.O_RDWR)
    monkeypatch.setattr(reading.stat, "S_ISREG", lambda _mode: True)
    for read in (reading.read_bytes, reading.read_text, lambda path: list(reading.json_rows(path))):
        with refuses(tmp_path / "kmsg", "cannot be read", "nothing to read now"):
            read(tmp_path / "kmsg")
    os.close(writer)


def test_what_cannot_be_reached_is_refused_with_its_name_and_a_full_disk_is_not(tmp_path):
    long = tmp_path / ("x" * 300)
    with refuses(long, "cannot be reached", "name too long"), reading.reaching():
        long.exists()
    with pytest.raises(OSError, match="No space"), reading.reaching():
        raise OSError(28, "No space left on device", "file")
    with pytest.raises(OSError, match="unnamed"), reading.reaching():
        raise PermissionError(13, "unnamed")
