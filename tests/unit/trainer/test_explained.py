"""Why a training ended: the first real error, from what was recorded, logged, and known of the nodes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.schema import Hardware
from trainer import explained
from trainer.explained import explain, first_error
from trainer.job import TrainingJob
from trainer.processes import failures
from trainer.processes.actors import DeadActor
from trainer.processes.logs import last_error_line
from trainer.processes.ray_cluster import RayCluster
from trainer.processes.watch import EngineErrors


def job(folder: Path) -> TrainingJob:
    return TrainingJob(
        name="merge", model_path="student", train_file=folder / "train.parquet", folder=folder, steps=4,
        prompts_per_step=2, samples_per_prompt=1, learning_rate=1e-4, max_prompt_tokens=8,
        max_response_tokens=8, save_every=2, seed=0, hardware=Hardware(device="cpu"),
        reward_function=("teachers.rewards", "compute_score"),
    )  # fmt: skip


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
    assert last_error_line(tmp_path) is None
    worker_log(tmp_path, "worker-1.err", TRACEBACK.format(error="ValueError: old"), 100)
    worker_log(tmp_path, "worker-2.err", TRACEBACK.format(error="torch.cuda.OutOfMemoryError: 2 GiB"), 300)
    worker_log(tmp_path, "worker-3.err", "all is well\n", 400)
    worker_log(tmp_path, "worker-4.out", TRACEBACK.format(error="ValueError: not an error log"), 500)
    assert last_error_line(tmp_path) == "torch.cuda.OutOfMemoryError: 2 GiB"


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
    assert last_error_line(tmp_path) == found


def test_only_the_end_of_a_log_is_read(tmp_path):
    worker_log(tmp_path, "worker-1.err", "ValueError: long ago\n" + "line\n" * 100, 1)
    assert last_error_line(tmp_path) is None


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("one\ntwo\n\n"), "two"),
        (ValueError(""), "ValueError"),
        (RuntimeError("  padded  "), "padded"),
    ],
)
def test_short_text_of_an_error(tmp_path, error, text):
    told = explain(
        job(tmp_path), error, tmp_path / "none", RayCluster(tmp_path, "mark"), EngineErrors(tmp_path), 0
    )
    assert told.splitlines()[0] == f"merge stopped: {text}"


def test_the_explanation_ends_with_the_first_real_error(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    worker_log(logs, "worker-1.err", TRACEBACK.format(error="ValueError: from the log"), 100)
    cluster, failed = RayCluster(logs, "mark"), tmp_path / "failures.jsonl"
    end, engines = RuntimeError("ray::Foo (pid 3) died"), EngineErrors(logs)
    text = explain(job(tmp_path), end, failed, cluster, engines, 0)
    assert text.splitlines()[0] == "merge stopped: ray::Foo (pid 3) died"
    assert text.splitlines()[-1] == "  first error: ValueError: from the log"
    assert "ValueError: from the log" in (tmp_path / "log.txt").read_text()
    failures.record(failed, "rollout", KeyError("the cause"))
    failures.record(failed, "trainer", RuntimeError("1 rollouts failed"))
    text = explain(job(tmp_path), end, failed, cluster, engines, 0)
    assert text.endswith("first error: KeyError: 'the cause'")


def test_an_engine_that_did_not_start_is_explained_by_its_own_log(tmp_path):
    """The lines are an H100's, whose environment lacked a package."""
    old = tmp_path / "worker-0.err"
    old.write_text("(Worker pid=3) ERROR 11-26 16:30:00 [x.py:1] ValueError: of an earlier training\n")
    engines = EngineErrors(tmp_path)
    vague = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    failures.record(tmp_path / "failures.jsonl", "trainer", RuntimeError(vague))
    ended = (job(tmp_path), RuntimeError(vague), tmp_path / "failures.jsonl", RayCluster(tmp_path, "mark"))
    assert explain(*ended, engines, 0).endswith(f"first error: RuntimeError: {vague}")
    before = "(Worker pid=3254) ERROR 11-26 16:35:27 [multiproc_executor.py:898] "
    lines = ["Traceback (most recent call last):", "    from flashinfer import ("]
    lines.append("ModuleNotFoundError: No module named 'flashinfer'")
    (tmp_path / "worker-1.err").write_text("".join(f"{before}{line}\n" for line in lines))
    text = explain(*ended, engines, 0)
    assert text.endswith("first error: ModuleNotFoundError: No module named 'flashinfer'")


def test_without_any_log_the_end_itself_is_the_error(tmp_path):
    nowhere = tmp_path / "no"
    text = explain(
        job(tmp_path),
        RuntimeError("gone"),
        tmp_path / "none",
        RayCluster(nowhere, "mark"),
        EngineErrors(nowhere),
        0,
    )
    assert text.endswith("first error: gone")


# ------------------------------------------------------------------------------ a joined cluster


def test_what_was_recorded_first_counts_unless_an_actor_or_node_had_died():
    recorded = {"time": 120.0, "error": "RuntimeError: connection closed by peer"}
    before, after = DeadActor(119.0, False, "WorkerDict died"), DeadActor(121.0, False, "Server died")
    assert first_error(recorded, None) == first_error(recorded, after) == recorded["error"]
    assert first_error(recorded, before) == "WorkerDict died"
    assert first_error(recorded, DeadActor(140.0, True, "its node")) == "its node"
    assert first_error(None, after) == "Server died" and first_error(None, None) is None


@pytest.fixture
def on_nodes(tmp_path, monkeypatch):
    """Explains a recorded error; nodes answer, and Ray knows of a death, as in these lists, look by look."""
    looks = []

    def on_nodes(recorded, silent=(), dead=()):
        silent, dead = list(silent), list(dead)
        looks.clear()

        def drop_silent():
            looks.append("look")
            return silent.pop(0) if silent else None

        nodes = SimpleNamespace(
            drop_silent=drop_silent,
            newest_error=lambda: None,
            log_text=lambda: "logs",
            engine_error=lambda: None,
        )
        monkeypatch.setattr(explained, "first_dead", lambda since: dead.pop(0) if dead else None)
        monkeypatch.setattr(explained, "NOTICE_SECONDS", 1.2)
        failed = tmp_path / "failures.jsonl"
        failed.unlink(missing_ok=True)
        failures.record(failed, "trainer", RuntimeError(recorded))
        cluster = RayCluster(tmp_path, "mark", nodes=nodes)
        text = explain(job(tmp_path), RuntimeError(recorded), failed, cluster, EngineErrors(tmp_path), 0)
        return text.rsplit("first error: ", 1)[1], len(looks)

    return on_nodes


def test_a_lost_connection_is_explained_by_the_node_that_is_lost(on_nodes):
    lost = DeadActor(2e9, True, "WorkerDict died with its node")
    assert on_nodes("Connection closed by peer", dead=[None, None, lost]) == (lost.text, 2)
    assert on_nodes("Connection closed by peer", silent=[None, "node two is silent"]) == (
        "node two is silent",
        2,
    )
    said, looks = on_nodes("Connection closed by peer")  # nothing else is known: it is what there is
    assert said == "RuntimeError: Connection closed by peer" and looks >= 3


def test_an_error_that_explains_itself_is_told_at_once(on_nodes):
    assert on_nodes("bad weights") == ("RuntimeError: bad weights", 1)


# -------------------------------------------------------------------------------------- a full disk

ENDED = RuntimeError("ray::WorkerDict.save() (pid=3)\nOSError: [Errno 28] No space left on device")


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_is_the_first_error_in_whatever_words_it_comes(tmp_path, monkeypatch, recorded, known):
    """torch's own error says something else; the failures' file is on the same disk; the disk may have room
    again by now."""
    monkeypatch.setattr(explained.disk, "full_places", lambda places: list(places)[:known])
    failed = tmp_path / "failures.jsonl"
    if recorded:
        failures.record(failed, "trainer", RuntimeError("unexpected pos 576 vs 534"))
    text = explain(
        job(tmp_path / "train"), ENDED, failed, RayCluster(tmp_path, "mark"), EngineErrors(tmp_path), 0
    )
    last = text.splitlines()[-1]
    assert last.startswith(f"  first error: no space left on device: {tmp_path / 'train'} (")
    assert ("unexpected pos" in last) == recorded and "same command continues" in last


def test_a_part_that_dies_beside_a_full_disk_is_told_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(explained.disk, "full_places", lambda places: [Path("/dev/shm/")])
    told = explained.full_disk(job(tmp_path), RayCluster(tmp_path, "mark"), ["ray::Foo died"])
    assert told is not None and "/dev/shm" in told
    monkeypatch.setattr(explained.disk, "full_places", lambda places: [])
    assert explained.full_disk(job(tmp_path), RayCluster(tmp_path, "mark"), ["ray::Foo died"]) is None


def test_a_log_that_cannot_be_written_hides_nothing(tmp_path):
    (tmp_path / "log.txt").mkdir()
    cluster, engines = RayCluster(tmp_path, "mark"), EngineErrors(tmp_path)
    text = explain(job(tmp_path), ValueError("the cause"), tmp_path / "failures.jsonl", cluster, engines, 0)
    assert text.endswith("first error: the cause")
