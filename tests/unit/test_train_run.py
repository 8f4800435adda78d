"""What a training leaves on disk, read back: metrics, checkpoints, time, and the first error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.schema import Hardware
from trainer import failures
from trainer import run as run_module
from trainer.job import TrainingJob
from trainer.ray_cluster import RayCluster
from trainer.run import (
    MetricsTail,
    _explain,
    _last_error_line,
    _short,
    attempts,
    last_checkpoint,
    read_metrics,
    train,
    wall_seconds,
)
from trainer.watch import EngineErrors


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def job(folder: Path, steps: int = 4) -> TrainingJob:
    return TrainingJob(
        name="merge", model_path="student", train_file=folder / "train.parquet", folder=folder, steps=steps,
        prompts_per_step=2, samples_per_prompt=1, learning_rate=1e-4, max_prompt_tokens=8,
        max_response_tokens=8, save_every=2, seed=0, hardware=Hardware(device="cpu"),
        reward_function=("teachers.rewards", "compute_score"),
    )  # fmt: skip


# ------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("content, expected", [(None, 0), ("", 0), ("\n", 0), ("12", 12), ("40\n", 40)])
def test_last_checkpoint(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(content)
    assert last_checkpoint(tmp_path) == expected


def test_an_empty_tracker_stands_for_the_checkpoint_that_had_just_become_whole(tmp_path):
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("")
    for step in (3, 10, 9):
        (tmp_path / f"global_step_{step}").mkdir()
    assert last_checkpoint(tmp_path) == 10
    (tmp_path / "latest_checkpointed_iteration.txt").unlink()
    assert last_checkpoint(tmp_path) == 0  # of no checkpoint verl has said that it is whole


@pytest.mark.parametrize("steps, mended", [([1, 2], "2"), ([], None)])
def test_an_empty_tracker_is_mended_before_verl_reads_it(tmp_path, monkeypatch, steps, mended):
    from trainer.errors import RunFailed

    begun = job(tmp_path)
    tracker = begun.checkpoints / "latest_checkpointed_iteration.txt"
    begun.checkpoints.mkdir()
    tracker.write_text("")
    for step in steps:
        (begun.checkpoints / f"global_step_{step}").mkdir()
    read = []
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(run_module, "verl_config", lambda job, name: SimpleNamespace())
    monkeypatch.setattr(run_module, "_add", lambda *a: None)
    monkeypatch.setattr(run_module, "_wait", lambda *a: None)
    launch = lambda config: read.append(tracker.read_text() if tracker.exists() else None)  # noqa: E731
    monkeypatch.setattr(run_module, "_launch", launch)
    with pytest.raises(RunFailed):  # nothing was trained
        train(begun, RayCluster(tmp_path, "mark"))
    assert read == [mended]


def test_steps_that_verl_logged_while_it_was_being_ended_are_taken_over(tmp_path):
    """Steps 2 and 4 are in a checkpoint; step 5 will be done again; the last line is cut off."""
    begun = job(tmp_path)
    begun.checkpoints.mkdir()
    (begun.checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    rows = [{"step": step, "data": {"loss": step / 10, "name": "text"}} for step in range(1, 6)]
    first, second = tmp_path / "merge-1.jsonl", tmp_path / "merge-2.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    second.write_text("".join(json.dumps(row) + "\n" for row in rows[3:]) + '{"step": 4, "da')
    (tmp_path / "verl_logs").write_text(f"{first}\n{tmp_path / 'gone.jsonl'}\n{second}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "loss": 7.0}\n{"step": 2, "ti')
    for _ in range(2):  # a second time changes nothing
        run_module._recover_metrics(begun)
        found = read_metrics(tmp_path)
        assert [(row["step"], row["loss"]) for row in found] == [(1, 7.0), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert all("name" not in row for row in found) and found[3]["time"] == second.stat().st_mtime


def test_a_finished_training_starts_nothing(tmp_path, monkeypatch):
    done = job(tmp_path)
    done.checkpoints.mkdir()
    (done.checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    monkeypatch.setattr(run_module, "_launch", lambda config: pytest.fail("verl was started"))
    train(done, cluster=None)
    assert attempts(tmp_path) == []


# ---------------------------------------------------------------------------------------- metrics


def test_metrics_in_order_and_a_repeated_step_counts_last(tmp_path):
    assert read_metrics(tmp_path) == []
    rows = [{"step": 1, "x": 1}, {"step": 2, "x": 2}, {"step": 3, "x": 3}, {"step": 2, "x": 20}, {"step": 10}]
    write_rows(tmp_path / "metrics.jsonl", rows)
    assert [(row["step"], row.get("x")) for row in read_metrics(tmp_path)] == [
        (1, 1),
        (2, 20),
        (3, 3),
        (10, None),
    ]


def test_a_line_that_a_killed_process_left_unfinished_is_no_step(tmp_path):
    source, target = tmp_path / "verl.jsonl", tmp_path / "metrics.jsonl"
    target.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]
    write_rows(source, [{"step": 2, "data": {"loss": 0.25}}])
    MetricsTail(source, job(tmp_path), lambda step, metrics: None).read()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 0.5), (2, 0.25)]


def test_the_tail_takes_whole_lines_once(tmp_path):
    source, seen = tmp_path / "verl.jsonl", []
    tail = MetricsTail(source, job(tmp_path), lambda step, metrics: seen.append((step, metrics)))
    tail.read()  # verl has written nothing yet
    first, second = ({"step": n, "data": {"actor/lr": n / 2, "name": "text"}} for n in (1, 2))
    half = json.dumps(second)
    source.write_text(json.dumps(first) + "\n" + half[:10])
    tail.read()
    tail.read()
    assert seen == [(1, {"actor/lr": 0.5})]
    with source.open("a") as file:
        file.write(half[10:] + "\n")
    tail.read()
    assert seen == [(1, {"actor/lr": 0.5}), (2, {"actor/lr": 1.0})]
    kept = read_metrics(tmp_path)
    assert [(row["step"], row["actor/lr"]) for row in kept] == [(1, 0.5), (2, 1.0)]
    assert all("name" not in row and row["time"] > 1.7e9 for row in kept)


# ------------------------------------------------------------------------------------------- time


def test_time_of_all_attempts(tmp_path, monkeypatch):
    """Began at 100, last step at 130, killed; began at 500, no step; began at 900, now 950."""
    (tmp_path / "attempts").write_text("100.0\n500.0\n900.0\n")
    rows = [{"step": 1, "time": 110.0}, {"step": 2, "time": 130.0}, {"step": 3, "time": 940.0}]
    write_rows(tmp_path / "metrics.jsonl", rows)
    monkeypatch.setattr(run_module.time, "time", lambda: 950.0)
    assert attempts(tmp_path) == [100.0, 500.0, 900.0]
    assert wall_seconds(tmp_path) == 30.0 + 0.0 + 50.0


def test_no_attempt_took_no_time(tmp_path):
    assert attempts(tmp_path) == [] and wall_seconds(tmp_path) == 0.0


# ----------------------------------------------------------------------------------------- errors

TRACEBACK = """(TaskRunner pid=7) Traceback (most recent call last):
  File "a.py", line 3, in run
    raise ValueError("a: b")
{error}
some other output
"""


def worker_log(logs: Path, name: str, text: str, modified: float) -> None:
    (logs / name).write_text(text)
    os.utime(logs / name, (modified, modified))


def test_the_newest_workers_error_is_found(tmp_path):
    assert _last_error_line(tmp_path) is None
    worker_log(tmp_path, "worker-1.err", TRACEBACK.format(error="ValueError: old"), 100)
    worker_log(tmp_path, "worker-2.err", TRACEBACK.format(error="torch.cuda.OutOfMemoryError: 2 GiB"), 300)
    worker_log(tmp_path, "worker-3.err", "all is well\n", 400)
    worker_log(tmp_path, "worker-4.out", TRACEBACK.format(error="ValueError: not an error log"), 500)
    assert _last_error_line(tmp_path) == "torch.cuda.OutOfMemoryError: 2 GiB"


@pytest.mark.parametrize(
    "line, found",
    [
        ("(pid=3) RuntimeError: boom", "RuntimeError: boom"),
        ("ray.exceptions.ActorDiedError: it died", "ray.exceptions.ActorDiedError: it died"),
        ("KeyboardInterrupt: stopped", "KeyboardInterrupt: stopped"),
        ('    raise ValueError("a: b")', None),
        ("Errors: 3 found", None),
        ("ValueError:", None),
    ],
)
def test_what_an_error_line_is(tmp_path, line, found):
    worker_log(tmp_path, "worker-1.err", f"before\n{line}\nafter\n", 1)
    assert _last_error_line(tmp_path) == found


def test_only_the_end_of_a_log_is_read(tmp_path):
    worker_log(tmp_path, "worker-1.err", "ValueError: long ago\n" + "line\n" * 100, 1)
    assert _last_error_line(tmp_path) is None


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("one\ntwo\n\n"), "two"),
        (ValueError(""), "ValueError"),
        (RuntimeError("  padded  "), "padded"),
    ],
)
def test_short_text_of_an_error(error, text):
    assert _short(error) == text


def test_the_explanation_ends_with_the_first_real_error(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    worker_log(logs, "worker-1.err", TRACEBACK.format(error="ValueError: from the log"), 100)
    cluster, failed = RayCluster(logs, "mark"), tmp_path / "failures.jsonl"
    end, engines = RuntimeError("ray::Foo (pid 3) died"), EngineErrors(logs)
    text = _explain(job(tmp_path), end, failed, cluster, engines)
    assert text.splitlines()[0] == "merge stopped: ray::Foo (pid 3) died"
    assert text.splitlines()[-1] == "  first error: ValueError: from the log"
    assert "ValueError: from the log" in (tmp_path / "log.txt").read_text()
    failures.record(failed, "rollout", KeyError("the cause"))
    failures.record(failed, "trainer", RuntimeError("1 rollouts failed"))
    text = _explain(job(tmp_path), end, failed, cluster, engines)
    assert text.endswith("first error: KeyError: 'the cause'")


def test_an_engine_that_did_not_start_is_explained_by_its_own_log(tmp_path):
    """The lines are an H100's, whose environment lacked a package."""
    old = tmp_path / "worker-0.err"
    old.write_text("(Worker pid=3) ERROR 11-26 16:30:00 [x.py:1] ValueError: of an earlier training\n")
    engines = EngineErrors(tmp_path)
    vague = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    failures.record(tmp_path / "failures.jsonl", "trainer", RuntimeError(vague))
    explain = (job(tmp_path), RuntimeError(vague), tmp_path / "failures.jsonl", RayCluster(tmp_path, "mark"))
    assert _explain(*explain, engines).endswith(f"first error: RuntimeError: {vague}")
    before = "(Worker pid=3254) ERROR 11-26 16:35:27 [multiproc_executor.py:898] "
    lines = ["Traceback (most recent call last):", "    from flashinfer import ("]
    lines.append("ModuleNotFoundError: No module named 'flashinfer'")
    (tmp_path / "worker-1.err").write_text("".join(f"{before}{line}\n" for line in lines))
    text = _explain(*explain, engines)
    assert text.endswith("first error: ModuleNotFoundError: No module named 'flashinfer'")


def test_without_any_log_the_end_itself_is_the_error(tmp_path):
    nowhere = tmp_path / "no"
    text = _explain(
        job(tmp_path),
        RuntimeError("gone"),
        tmp_path / "none",
        RayCluster(nowhere, "mark"),
        EngineErrors(nowhere),
    )
    assert text.endswith("first error: gone")


def test_an_end_without_the_last_checkpoint_is_a_failure(tmp_path, monkeypatch):
    from trainer.errors import RunFailed

    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(run_module, "verl_config", lambda job, name: SimpleNamespace())
    monkeypatch.setattr(run_module, "_add", lambda *a: None)
    monkeypatch.setattr(run_module, "_launch", lambda config: None)
    monkeypatch.setattr(run_module, "_wait", lambda *a: None)
    with pytest.raises(RunFailed, match="at step 0 of 4"):
        train(job(tmp_path), RayCluster(tmp_path, "mark"))
    assert len(attempts(tmp_path)) == 1
