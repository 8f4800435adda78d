"""Wall time by stage and memory of a run, kept over interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from common.errors import ConfigError
from merging.state import measure
from merging.state.measure import Measured, memory_of_tree


def test_stages_add_up_over_processes_and_failures(tmp_path, monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 21.0, 100.0, 100.25])
    monkeypatch.setattr(measure.time, "monotonic", lambda: next(clock))
    first = Measured(tmp_path)
    with first.stage("merge"):
        pass
    with pytest.raises(RuntimeError), first.stage("merge"):
        raise RuntimeError
    assert first.wall_seconds == {"merge": 3.5}
    later = Measured(tmp_path)  # another process
    assert later.wall_seconds == {"merge": 3.5}
    with later.stage("evaluation"):
        pass
    stored = json.loads((tmp_path / "measured.json").read_text())
    assert stored == {"wall_seconds": {"merge": 3.5, "evaluation": 0.25}, "peak_memory_bytes": 0}


def test_the_peak_is_the_largest_sample_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.01)
    sizes = [5, 9, 7]
    monkeypatch.setattr(measure, "memory_of_tree", lambda: sizes.pop(0) if sizes else 1)
    measured = Measured(tmp_path)
    with measured.watching_memory():
        deadline = time.monotonic() + 10
        while sizes and time.monotonic() < deadline:
            time.sleep(0.01)
    assert measured.peak_memory_bytes == 9
    again = Measured(tmp_path)
    assert again.peak_memory_bytes == 9
    monkeypatch.setattr(measure, "memory_of_tree", lambda: 3)
    with again.watching_memory():
        time.sleep(0.05)
    assert Measured(tmp_path).peak_memory_bytes == 9  # a smaller one does not replace it


def test_the_watch_ends_with_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.005)
    samples = []
    monkeypatch.setattr(measure, "memory_of_tree", lambda: samples.append(1) or 1)
    with pytest.raises(ValueError), Measured(tmp_path).watching_memory():
        time.sleep(0.05)
        raise ValueError
    taken = len(samples)
    time.sleep(0.05)
    assert taken > 0 and len(samples) == taken
    assert Measured(tmp_path).peak_memory_bytes == 1


def test_memory_includes_children():
    alone = memory_of_tree()
    code = "x = bytearray(b'1' * (64 << 20)); print('ready', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "ready\n"
        with_child = memory_of_tree()
    finally:
        child.communicate("\n")
    assert alone > 2**20
    assert 60 * 2**20 < with_child - alone < 160 * 2**20
    assert memory_of_tree() < with_child - 50 * 2**20


def test_a_process_that_has_ended_counts_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert measure.proportional_bytes(child.pid) == 0


@pytest.mark.parametrize("block", ["stage", "watching_memory"])
def test_a_full_disk_does_not_hide_what_the_block_failed_of(tmp_path, monkeypatch, block):
    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measure, "write_json", fail)
    measured = Measured(tmp_path)
    watched = {"stage": lambda: measured.stage("merge"), "watching_memory": measured.watching_memory}[block]
    with pytest.raises(ValueError, match="the cause"), watched():
        raise ValueError("the cause")
    with pytest.raises(OSError, match="No space"), watched():
        pass


@pytest.mark.parametrize(
    "content",
    ['{"wall_seconds": {"merge": NaN}}', '{"wall_seconds": {"merge": Infinity}}',
     '{"wall_seconds": {"merge": -1}}', '{"peak_memory_bytes": -1}', '{"peak_memory_bytes": null}'],
)  # fmt: skip
def test_what_was_never_measured_is_refused(tmp_path, content):
    (tmp_path / "measured.json").write_text(content)
    with pytest.raises(ConfigError, match=r"measured\.json"):
        Measured(tmp_path)
