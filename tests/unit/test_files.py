"""Folders and files that appear whole or not at all, and the list of a run's failures."""

from __future__ import annotations

import json
import threading

import pytest

from trainer import failures
from trainer.files import new_folder, write_json, write_text


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


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": 1, "a": ["é", None]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "é",\n    null\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"not": object()})
    assert json.loads(path.read_text()) == {"b": 1, "a": ["é", None]}
    assert names(path.parent) == ["a.json"]


def test_a_text_that_cannot_be_written_keeps_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


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


def test_the_first_failure_is_the_first_that_was_recorded(tmp_path):
    path = tmp_path / "failures.jsonl"
    assert failures.first(path) is None
    for text in ("the cause", "a\nconsequence"):
        try:
            raise ValueError(text)
        except ValueError as error:
            failures.record(path, "rollout", error)
    first = failures.first(path)
    assert (first["where"], first["error"]) == ("rollout", "ValueError: the cause")
    assert "test_files.py" in first["traceback"] and "raise ValueError(text)" in first["traceback"]
    assert first["time"] > 1.7e9
    assert len(path.read_text().splitlines()) == 2  # one line each


def test_an_empty_failures_file_is_no_failure(tmp_path):
    (tmp_path / "failures.jsonl").write_text("\n")
    assert failures.first(tmp_path / "failures.jsonl") is None
