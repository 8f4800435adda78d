"""What benchmarks/disturb.py concludes; the runs that it disturbs are real and started by hand."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import disturb
from benchmarks.disturb import CODES, LAST_LINE, STAGES, WAYS, Disk, Outcome, Run, left_behind, wait_for_stage
from common.disk import sentence
from merging.cli.main import FAILED, TERMINATED

LOG = """expert math (GRPO): starting
expert math (GRPO): 2/2, done reward 0.5
merge (lambda 1.25): starting
polish (GRPO): starting
opd (lambda 1): starting
baseline sft: teachers' answers: starting
evaluation: starting
evaluation: 14/14, done student on code: 24/24
"""


def test_the_stages_are_told_from_the_output(tmp_path):
    seen = [name for name, pattern in STAGES.items() if re.search(pattern, LOG, re.MULTILINE)]
    assert seen == list(STAGES)
    run = Run(Path("c.yaml"), (), tmp_path)
    run.log.write_text(LOG)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        for stage in STAGES:  # a stage that was found done is none to wait for
            wait_for_stage(process, run, 0, stage)
        process.communicate(b"\n")
    wait_for_stage(process, run, len(LOG), "expert")  # it has ended


def test_a_polish_is_disturbed_where_the_config_has_one(tmp_path):
    plain, polished = tmp_path / "plain.yaml", tmp_path / "polished.yaml"
    plain.write_text("name: x\n")
    polished.write_text("name: x\npolish: {steps: 2}\n")
    assert disturb.stages_of(polished) == list(STAGES)
    assert set(STAGES) - set(disturb.stages_of(plain)) == {"polish"}


def test_every_way_has_what_it_must_end_with(tmp_path):
    assert WAYS.keys() == CODES.keys() and LAST_LINE.keys() == CODES.keys() - {"kill"}
    assert (CODES["term"], CODES["full disk"]) == (TERMINATED, FAILED)
    assert re.search(LAST_LINE["full disk"], f"error: {sentence([tmp_path])}")


def test_what_was_whole_must_stay(tmp_path):
    run = Run(Path("c.yaml"), (), tmp_path)
    model, checkpoints = tmp_path / "student" / "model.safetensors", tmp_path / "train" / "checkpoints"
    for folder in (model.parent, checkpoints, tmp_path / ".half"):
        folder.mkdir(parents=True)
    (tmp_path / ".half" / "model.safetensors").write_text("half")
    model.write_text("whole")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    assert run.losses() == [] == run.losses()
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
    model.write_text("other")
    assert run.losses() == [
        "student/model.safetensors is lost or changed",
        "train/checkpoints is behind",
    ]


def test_a_new_process_and_a_new_file_are_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(disturb, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(disturb, "files", lambda: {"/tmp/a", "/tmp/b"})
    processes = set(psutil.pids())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.2)
        left = left_behind({"/tmp/a", "/tmp/c"}, processes)
        process.communicate(b"\n")
    assert "file /tmp/b" in left and "file /tmp/c is gone" in left
    assert any(text.startswith(f"process {process.pid} ") for text in left)


def test_a_filled_disk_takes_nothing_until_it_is_emptied(monkeypatch, tmp_path):
    monkeypatch.setattr(disturb, "DISK", "1m")
    with Disk(tmp_path) as disk:
        if not disk.mounted:
            return  # as an ordinary user: said, and never filled
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_text("x" * 5000)
        disk.empty()
        (disk.folder / "more").write_text("x" * 5000)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["more"]


def test_a_row_of_the_table():
    good = Outcome("merge", "kill", 3.04, 0.12, ())
    assert good.row() == "| merge | kill | 3.0 s | 0.1 s | none |"
    assert replace(good, problems=("a", "b")).row().endswith("| a; b |")
