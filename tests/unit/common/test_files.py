"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.files import (
    hidden_name,
    is_file_name,
    is_hidden_name,
    json_lines,
    json_text,
    new_file,
    new_folder,
    remove_folder,
    remove_leftovers,
    write_json,
    write_text,
)
from tests.helpers.paths import ROOT


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_appears_when_its_block_ends(tmp_path):
    target = tmp_path / "deep" / "model"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists() and folder.parent == target.parent
        assert folder.name.startswith(".")  # no glob of a shell finds it
        number = folder.stat().st_ino
    assert target.stat().st_ino == number  # renamed, not copied: whole at every moment
    assert names(target) == ["a"] and names(target.parent) == ["model"]


def test_a_new_folder_replaces_all_of_an_old_one(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with new_folder(tmp_path / "model") as folder:
        (folder / "new").touch()
        assert names(tmp_path / "model") == ["old"]  # until the end
    assert names(tmp_path / "model") == ["new"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    for target in ("model", "other"):
        with pytest.raises(error), new_folder(tmp_path / target) as folder:
            (folder / "half").touch()
            raise error
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["old"]


def test_a_folder_that_may_not_be_replaced_takes_the_place_of_nothing_or_of_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for target in ("none", "empty"):
        with new_folder(tmp_path / target, replace=False) as folder:
            (folder / "new").touch()
        assert names(tmp_path / target) == ["new"]
    with pytest.raises(OSError), new_folder(tmp_path / "meanwhile", replace=False) as folder:
        (folder / "new").touch()
        (tmp_path / "meanwhile").mkdir()
        (tmp_path / "meanwhile" / "theirs").touch()
    assert names(tmp_path / "meanwhile") == ["theirs"]
    assert names(tmp_path) == ["empty", "meanwhile", "none"]


def test_a_new_file_appears_when_its_block_ends(tmp_path):
    target = tmp_path / "deep" / "a.bin"
    with new_file(target) as path:
        path.write_bytes(b"\x00\xff")
        assert not target.exists() and path.parent == target.parent
        assert path.name.startswith(".") and is_hidden_name(path.name)
        number = path.stat().st_ino
    assert target.read_bytes() == b"\x00\xff" and names(target.parent) == ["a.bin"]
    assert target.stat().st_ino == number  # renamed, not copied: whole at every moment


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_file_that_was_there(tmp_path, error):
    (tmp_path / "a").write_text("old")
    for target in ("a", "b"):
        with pytest.raises(error), new_file(tmp_path / target) as path:
            path.write_text("half")
            raise error
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_two_that_write_the_same_file_do_not_meet(tmp_path):
    with new_file(tmp_path / "a") as first, new_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "first"  # the outer block ends last


STOPS_HALFWAY = """
import os, signal, sys, time
from pathlib import Path
from common.files import new_file, new_folder
folder = Path(sys.argv[1])
with new_file(folder / "a") as file, new_folder(folder / "model") as model:
    file.write_text("half")
    (model / "half").touch()
    print("halfway", flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_killed_halfway_leaves_what_was_there_and_hidden_rests(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS_HALFWAY, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "halfway\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path / "model") == ["old"]
    rests = [path for path in tmp_path.iterdir() if path.name not in ("a", "model")]
    assert len(rests) == 2 and all(is_hidden_name(path.name) for path in rests)
    remove_leftovers(tmp_path / "model")
    assert [path.is_file() for path in tmp_path.iterdir() if is_hidden_name(path.name)] == [True]
    write_text(tmp_path / "a", "new")  # the rest of a file is in nobody's way
    assert (tmp_path / "a").read_text() == "new"


def test_hidden_names():
    made = {hidden_name("model") for _ in range(100)}
    assert len(made) == 100 and all(map(is_hidden_name, made))
    others = [
        "model",
        ".model",
        ".tmp",
        "model.01234567.tmp",
        ".model.tmp",
        ".model.0123456z.tmp",
        ".a.0.tmp",
    ]
    assert not any(map(is_hidden_name, others))


def test_a_folder_is_removed_at_one_stroke(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()

    def seen(path: Path) -> None:
        assert not (tmp_path / "model").exists() and names(path) == ["weights"] and is_hidden_name(path.name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", seen)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "model")
    assert len(names(tmp_path)) == 1
    remove_leftovers(tmp_path / "model")
    assert names(tmp_path) == []
    remove_folder(tmp_path / "model")  # there is none: nothing to do


def test_only_a_folder_s_own_leftovers_are_removed(tmp_path):
    for name in ("model", ".other.01234567.tmp", ".model.01234567.tmp"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path / "model")
    assert names(tmp_path) == [".other.01234567.tmp", "model"]


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": 1, "a": ["é", None]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "é",\n    null\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"not": object()})
    assert json.loads(path.read_text()) == {"b": 1, "a": ["é", None]}
    assert path.read_text(encoding="utf-8") == json_text({"b": 1, "a": ["é", None]})
    assert names(path.parent) == ["a.json"]


def test_json_lines():
    assert json_lines([{"b": "é\n"}, {"a": None}]) == '{"b": "é\\n"}\n{"a": null}\n'
    assert json_lines([]) == ""


def test_a_text_that_cannot_be_written_keeps_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]
    write_text(path, "a\ud800é", errors="replace")
    assert path.read_bytes() == "a?é".encode()


@pytest.mark.parametrize("name", ["", ".", "a\0b"])
def test_what_no_file_can_be_called_is_not_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError):
        write_text(Path(name), "new")
    assert names(tmp_path) == []


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, sizes, stop = tmp_path / "a.json", set(), threading.Event()
    write_json(path, [0] * 5000)
    whole = len(path.read_bytes())

    def read():
        while not stop.is_set():
            sizes.add(len(path.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        write_json(path, [0] * 5000)
    stop.set()
    reader.join()
    assert sizes == {whole}


@pytest.mark.parametrize(
    ("name", "can_be"),
    [("model.safetensors", True), ("é", True), ("x" * 255, True), ("x" * 256, False), ("é" * 128, False),
     ("", False), (".", False), ("..", False), ("a/b", False), ("/", False), ("a\0", False),
     ("\ud800", False), ("a\n", False)],
)  # fmt: skip
def test_what_a_file_of_a_folder_can_be_called(name, can_be):
    assert is_file_name(name) == can_be
