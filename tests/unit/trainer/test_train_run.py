"""What a training leaves on disk, read back: metrics, checkpoints, time, and the first error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from common.errors import ConfigError
from configs.schema import Hardware
from trainer import run as run_module
from trainer.job import TrainingJob
from trainer.processes.ray_cluster import RayCluster
from trainer.run import (
    MetricsTail,
    attempts,
    check_ranks,
    check_shared,
    existing_paths,
    last_checkpoint,
    read_metrics,
    train,
    wall_seconds,
)
from trainer.validation import ValidationTail


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def job(folder: Path, steps: int = 4) -> TrainingJob:
    return TrainingJob(
        name="merge", model_path="student", train_file=folder / "train.parquet", folder=folder, steps=steps,
        prompts_per_step=2, samples_per_prompt=1, learning_rate=1e-4, max_prompt_tokens=8,
        max_response_tokens=8, save_every=2, seed=0, hardware=Hardware(device="cpu"),
        reward_function=("teachers.rewards", "compute_score"),
    )  # fmt: skip


def no_validations(folder: Path) -> ValidationTail:
    return ValidationTail(job(folder), lambda found: None)


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
    from common.errors import RunFailed

    begun = job(tmp_path)
    tracker = begun.checkpoints / "latest_checkpointed_iteration.txt"
    begun.checkpoints.mkdir()
    tracker.write_text("")
    for step in steps:
        (begun.checkpoints / f"global_step_{step}").mkdir()
    read = []
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(run_module, "verl_config", lambda job, name: OmegaConf.create({}))
    monkeypatch.setattr(run_module, "wait", lambda *a: None)
    launch = lambda config: read.append(tracker.read_text() if tracker.exists() else None)  # noqa: E731
    monkeypatch.setattr(run_module, "launch", launch)
    with pytest.raises(RunFailed):  # nothing was trained
        train(begun, RayCluster(tmp_path, "mark"))
    assert read == [mended]


def shards(checkpoints: Path, step: int, ranks: int, below: str = "actor") -> None:
    folder = checkpoints / f"global_step_{step}" / below
    folder.mkdir(parents=True)
    for rank in range(ranks):
        (folder / f"model_world_size_{ranks}_rank_{rank}.pt").touch()
    (checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))


@pytest.mark.parametrize("below", ["actor", ""])
def test_a_checkpoint_of_another_number_of_devices_is_refused(tmp_path, below):
    """A registry's half-built expert may be continued by a run with other hardware."""
    begun = job(tmp_path)
    check_ranks(begun)
    shards(begun.checkpoints, 1, 8, below)
    shards(begun.checkpoints, 2, 2, below)
    with pytest.raises(ConfigError, match=r"global_step_2\) was written by 2 devices.* is 1; .*delete"):
        check_ranks(begun)
    for gpus, nodes in ((2, 1), (1, 2)):
        hardware = Hardware(device="cpu", gpus=gpus, nodes=nodes, ray_address="10.0.0.1:6379")
        check_ranks(replace(begun, hardware=hardware))


def test_the_paths_that_all_nodes_need_are_those_of_the_configuration_which_exist_here(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.parquet").touch()
    config = {
        "model": {"path": str(tmp_path / "model"), "name": "model", "to_come": str(tmp_path / "checkpoints")},
        "files": [str(tmp_path / "rows.parquet"), None, 3, str(tmp_path / "model")],
    }
    assert existing_paths(config) == [str(tmp_path / "model"), str(tmp_path / "rows.parquet")]


def test_all_nodes_must_see_the_jobs_own_folder(tmp_path):
    """Not one of the same name: a file that has just been made there is asked for, and then removed."""
    asked = []

    class Nodes:
        def check_paths(self, paths):
            asked.append({path: Path(path).exists() for path in paths})
            raise ConfigError("a node lacks it")

    config = OmegaConf.create({"file": str(tmp_path), "same": "${file}"})
    with pytest.raises(ConfigError):
        check_shared(Nodes(), job(tmp_path), config)
    (paths,) = asked
    assert all(paths.values()) and str(tmp_path) in paths and len(paths) == 2
    assert not any(Path(path).exists() for path in paths if path != str(tmp_path))


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
        run_module.recover_metrics(begun)
        found = read_metrics(tmp_path)
        assert [(row["step"], row["loss"]) for row in found] == [(1, 7.0), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert all("name" not in row for row in found) and found[3]["time"] == second.stat().st_mtime


def test_a_finished_training_starts_nothing(tmp_path, monkeypatch):
    done = job(tmp_path)
    done.checkpoints.mkdir()
    (done.checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    monkeypatch.setattr(run_module, "launch", lambda config: pytest.fail("verl was started"))
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
    MetricsTail(source, job(tmp_path), lambda step, metrics: None, no_validations(tmp_path)).read()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 0.5), (2, 0.25)]


def test_the_tail_takes_whole_lines_once(tmp_path):
    source, seen = tmp_path / "verl.jsonl", []
    tail = MetricsTail(
        source,
        job(tmp_path),
        lambda step, metrics: seen.append((step, metrics)),
        no_validations(tmp_path),
    )
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


def test_an_end_without_the_last_checkpoint_is_a_failure(tmp_path, monkeypatch):
    from common.errors import RunFailed

    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(run_module, "verl_config", lambda job, name: OmegaConf.create({}))
    monkeypatch.setattr(run_module, "launch", lambda config: None)
    monkeypatch.setattr(run_module, "wait", lambda *a: None)
    with pytest.raises(RunFailed, match="at step 0 of 4"):
        train(job(tmp_path), RayCluster(tmp_path, "mark"))
    assert len(attempts(tmp_path)) == 1


def test_half_a_checkpoint_is_removed_and_the_last_whole_one_continued(tmp_path, monkeypatch):
    from common.errors import RunFailed

    begun = job(tmp_path)
    for step in (2, 3, 10):
        (begun.checkpoints / f"global_step_{step}" / "actor").mkdir(parents=True)
    (begun.checkpoints / "global_step_x").mkdir()
    (begun.checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
    read = []
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(run_module, "verl_config", lambda job, name: OmegaConf.create({}))
    monkeypatch.setattr(run_module, "wait", lambda *a: None)
    monkeypatch.setattr(
        run_module, "launch", lambda config: read.extend(path.name for path in begun.checkpoints.iterdir())
    )
    with pytest.raises(RunFailed, match="at step 2 of 4"):  # nothing was trained
        train(begun, RayCluster(tmp_path, "mark"))
    assert sorted(read) == ["global_step_2", "global_step_x", "latest_checkpointed_iteration.txt"]


def test_an_attempt_whose_time_a_full_disk_has_cut_counts_no_more(tmp_path, monkeypatch):
    from common.errors import RunFailed

    (tmp_path / "attempts").write_text("100.5\n17.")
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setattr(run_module, "verl_config", lambda job, name: OmegaConf.create({}))
    monkeypatch.setattr(run_module, "wait", lambda *a: None)
    monkeypatch.setattr(run_module, "launch", lambda config: None)
    with pytest.raises(RunFailed):
        train(job(tmp_path), RayCluster(tmp_path, "mark"))
    assert attempts(tmp_path)[0] == 100.5 and attempts(tmp_path)[1] > 1e9
