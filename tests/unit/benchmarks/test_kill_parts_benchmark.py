"""What benchmarks/kill_parts.py concludes and reads; the runs that it kills are real and started by hand."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from benchmarks import kill_parts
from benchmarks.kill_parts import PARTS, Outcome, find, last_line, title

GOOD = Outcome("engine", "VLLM::EngineCore on node 3", 9.04, 1, "first error: x", 0, 0)


def test_a_run_must_end_in_time_with_an_error_and_leave_nothing():
    assert GOOD.good
    worse = ({"seconds": 31}, {"code": 0}, {"code": None}, {"left": 1}, {"files": 2})
    assert not any(replace(GOOD, **change).good for change in worse)
    killed = replace(GOOD, part="command", code=-signal.SIGKILL)
    assert killed.good and not replace(killed, code=1).good


def test_a_row_of_the_table():
    assert GOOD.row() == "| engine | VLLM::EngineCore on node 3 | 9.0 s | 1 | 0 | 0 | first error: x |"


def test_the_options_name_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "sys.argv", ["kill_parts", "c.yaml", "--out", str(tmp_path / "o"), "--part", "scorer"]
    )
    assert kill_parts.read_options().part == ["scorer"]
    monkeypatch.setattr("sys.argv", ["kill_parts", "c.yaml", "--out", str(tmp_path / "o")])
    assert kill_parts.read_options().part == list(PARTS)
    monkeypatch.setattr("sys.argv", ["kill_parts", "c.yaml", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):  # the folder is there
        kill_parts.read_options()


def test_a_raylet_is_found_by_its_node_and_a_missing_part_ends_the_program():
    own = os.getpid()
    assert find("raylet", [1, own]).pid == own == find("head", [own, 1]).pid
    with pytest.raises(SystemExit, match="no process is titled VLLM::EngineCore"):
        find("engine", [own])
    assert title(find("raylet", [own]))


def test_the_last_line_that_says_something(tmp_path):
    log = tmp_path / "log"
    log.write_text("a\n  first error: b\n\n")
    assert last_line(log) == "first error: b"
