"""Which errors mean a full disk, whatever a library makes of them, and what is told then."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from common import disk
from common.disk import full_path, full_places, is_full, naming, says_full, sentence
from common.files import append_line, new_file, new_folder, write_text
from tests.helpers.messages import says

Usage = namedtuple("Usage", "total used free")


def full(*names: str | None) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", *names)


def raised(error: Exception, while_handling: Exception) -> Exception:
    """The first error as it is when it is raised in the handling of the second."""
    try:
        try:
            raise while_handling
        except Exception:
            raise error  # noqa: B904
    except Exception as caught:
        return caught


QUOTA = OSError(errno.EDQUOT, "Disk quota exceeded")
SAFETENSORS = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def test_a_full_disk_is_known_from_the_error_its_text_and_what_came_before():
    assert is_full(full()) and is_full(QUOTA) and is_full(SAFETENSORS)
    assert not is_full(TORCH) and is_full(raised(TORCH, full()))
    assert not is_full(None) and not is_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_full(raised(ValueError("x"), KeyError("y")))
    copied = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")])
    assert is_full(copied)
    assert says_full("ray.exceptions.OutOfDiskError: Local disk is full") and not says_full("all is well")


def test_the_file_is_the_one_that_is_written():
    assert full_path(full("model")) == Path("model")
    assert full_path(full("source", None, "target")) == Path("target")  # of a copy
    assert full_path(full()) is None and full_path(QUOTA) is None
    assert full_path(raised(TORCH, full("shard"))) == Path("shard")
    assert full_path(raised(full(), FileNotFoundError(errno.ENOENT, "none", "other"))) is None


@pytest.mark.parametrize("write", ["file", "folder", "line"])
@pytest.mark.parametrize("error", [full(), SAFETENSORS])
def test_writers_name_their_target_and_leave_what_was_there(tmp_path, monkeypatch, write, error):
    target = tmp_path / "target"

    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    with pytest.raises(OSError) as caught:
        if write == "file":
            write_text(target, "old")
            with new_file(target) as temporary:
                temporary.write_text("half")
                fail()
        elif write == "folder":
            with new_folder(target) as temporary:
                (temporary / "half").write_text("half")
                fail()
        else:
            monkeypatch.setattr(Path, "open", fail)
            append_line(target, "x")
    assert caught.value.errno == errno.ENOSPC and full_path(caught.value) == target
    assert [path.name for path in tmp_path.iterdir()] == (["target"] if write == "file" else [])
    assert write != "file" or target.read_text() == "old"


def test_any_other_error_stays_as_it_is(tmp_path):
    for error in (ValueError("x"), PermissionError(errno.EACCES, "no"), full("named")):
        with pytest.raises(type(error)) as caught, naming(tmp_path):
            raise error
        assert caught.value is error


def test_the_message_names_the_place_what_is_free_there_and_what_helps(monkeypatch, tmp_path):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(64_000_000, 64_000_000, 0))
    told = sentence([tmp_path / "not" / "there"])
    says(told, "no space left on device", tmp_path / "not" / "there", "64.0 MB", "same command", "room")
    assert "()" not in sentence([])


def test_full_places_are_told_once_for_each_file_system(monkeypatch, tmp_path):
    total = 1 << 40
    for free, expected in ((0, 1), (disk.LITTLE_BYTES - 1, 1), (disk.LITTLE_BYTES, 0)):
        usage = Usage(total, total - free, free)
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert full_places([tmp_path / "a", tmp_path / "b"]) == [tmp_path / "a"][:expected]
    small = Usage(1 << 20, 0, 1 << 20)  # a small file system is not full for being small
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: small)
    assert full_places([tmp_path]) == []


def test_a_file_that_grows_loses_the_line_that_a_full_disk_cut(tmp_path):
    (tmp_path / "lines").write_text("1.5\n17.")
    append_line(tmp_path / "lines", "2.5")
    assert (tmp_path / "lines").read_text() == "1.5\n2.5\n"
