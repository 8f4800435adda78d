"""Logs of Ray's workers: of one job on a cluster that has run others, else of all."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.processes.logs import collected, newest_error, worker_logs
from trainer.processes.watch import EngineErrors

OURS, THEIRS = "02000000", "01000000"


def write(logs: Path, name: str, text: str, seconds: float) -> None:
    (logs / name).write_text(text)
    os.utime(logs / name, (seconds, seconds))


def test_a_job_reads_its_own_logs_alone(tmp_path):
    write(tmp_path, f"worker-aa-{OURS}-11.err", "ValueError: ours\n", 100)
    write(tmp_path, f"worker-aa-{OURS}-11.out", "printed\n", 90)
    write(tmp_path, f"worker-bb-{THEIRS}-12.err", "ValueError: theirs, and newer\n", 200)
    write(tmp_path, "raylet.err", "ValueError: of no worker\n", 300)
    assert [file.name for file in worker_logs(tmp_path, OURS)] == [
        f"worker-aa-{OURS}-11.err",
        f"worker-aa-{OURS}-11.out",
    ]
    assert newest_error(tmp_path, OURS) == (100, "ValueError: ours")
    assert newest_error(tmp_path) == (200, "ValueError: theirs, and newer")
    text = collected(tmp_path, OURS)
    assert "printed" in text and "ours" in text and "theirs" not in text
    assert text.index("printed") < text.index("ours"), "the newest comes last"


def test_another_jobs_engine_error_is_not_ours(tmp_path):
    error = "(EngineCore pid=3) ERROR 11-26 16:30:00 [x.py:1] ValueError: {}\n"
    ours, all_jobs = EngineErrors(tmp_path, OURS), EngineErrors(tmp_path)
    write(tmp_path, f"worker-bb-{THEIRS}-12.err", error.format("theirs"), 1)
    assert ours.first() is None and all_jobs.first() == "ValueError: theirs"
    write(tmp_path, f"worker-aa-{OURS}-11.err", error.format("ours"), 2)
    assert ours.first() == "ValueError: ours"


def test_a_log_that_is_renamed_is_read_on_and_one_that_is_gone_is_passed_over(tmp_path):
    """Ray renames a worker's log when it gives it its job; a link to nowhere is a file just renamed."""
    error = "(EngineCore pid=3) ERROR 11-26 16:30:00 [x.py:1] ValueError: {}\n"
    (tmp_path / "worker-aa-ffffffff-10.err").symlink_to("renamed")
    write(tmp_path, "worker-bb-ffffffff-11.err", error.format("from before"), 1)
    engines = EngineErrors(tmp_path)
    (tmp_path / "worker-bb-ffffffff-11.err").rename(tmp_path / f"worker-bb-{OURS}-11.err")
    assert engines.first() is None, "known when the follower began"
    assert newest_error(tmp_path) == (1, "ValueError: from before")
    assert "from before" in collected(tmp_path)
    with (tmp_path / f"worker-bb-{OURS}-11.err").open("a") as stream:
        stream.write(error.format("new"))
    assert engines.first() == "ValueError: new"
