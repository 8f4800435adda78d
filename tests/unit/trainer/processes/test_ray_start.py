"""Starting Ray on a busy machine: one more try, and a message instead of a traceback."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import RunFailed
from configs.schema import Hardware
from merging.state.cluster import Cluster
from tests.helpers.messages import refuses
from trainer.processes import private, ray_cluster, reaper

SLOW = Exception("The current node timed out during startup. This could happen because ...")


class FakeRay:
    """Fails as often as there are errors, then starts."""

    def __init__(self, *errors: Exception):
        self.errors, self.calls = list(errors), []

    def init(self, **options):
        self.calls.append(options)
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self):
        self.calls.append("shutdown")


def start(ray, mark="none"):
    ray_cluster.init_ray(ray, mark, frozenset({os.getpid()}), num_cpus=4)


def test_a_start_that_took_too_long_is_tried_again_without_what_it_left(monkeypatch):
    mark = uuid.uuid4().hex
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        env={**os.environ, reaper.MARK: mark},
        stdout=subprocess.PIPE,
    )
    left.stdout.readline()  # from here on its environment is its own
    ray = FakeRay(SLOW)
    start(ray, mark)
    assert ray.calls == [{"num_cpus": 4}, "shutdown", {"num_cpus": 4}]
    left.stdout.close()
    assert left.wait(5) != 0


def test_a_start_that_fails_twice_is_a_failed_run():
    with refuses("Ray did not start", "two", "The current node timed out", error=RunFailed):
        start(FakeRay(SLOW, SLOW))


def test_any_other_error_is_not_tried_again():
    ray = FakeRay(ValueError("no such option"))
    with pytest.raises(ValueError, match="no such option"):
        start(ray)
    assert ray.calls == [{"num_cpus": 4}]


def test_sigterm_is_handled_after_a_start_as_before_it():
    """Ray sets a handler of its own, in Python and below it."""
    before = signal.getsignal(signal.SIGTERM)

    class TakesSigterm(FakeRay):
        def init(self, **options):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            super().init(**options)

    try:
        for errors in ((), (ValueError("no such option"),)):
            with suppress(ValueError):
                start(TakesSigterm(*errors))
            assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_gets_no_handler_in_the_commands_process(monkeypatch):
    utils = importlib.import_module("ray._private.utils")
    monkeypatch.setattr(utils, "set_sigterm_handler", utils.set_sigterm_handler)  # comes back afterwards
    before = signal.getsignal(signal.SIGTERM)
    ray_cluster.keep_sigterm(importlib.import_module("ray"))
    utils.set_sigterm_handler(signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


# --------------------------------------------------------------------------------- the job's number


class NumberedRay:
    """A cluster that this process has started: jobs are numbered as they connect."""

    def __init__(self):
        self.last, self.node, self.connections = 1, "started here", []
        state = SimpleNamespace(next_job_id=self.next_job_id)
        self._private = SimpleNamespace(state=state, worker=SimpleNamespace(_global_node=self.node))

    def next_job_id(self):
        self.last += 1

    def get_runtime_context(self):
        return SimpleNamespace(get_job_id=lambda: self.last.to_bytes(4, "little").hex())

    def shutdown(self):
        assert vars(self._private.worker) == {"_global_node": None}, "Ray would end the node"

    def init(self, **options):
        self.last += 1
        self.connections.append(options)


@pytest.mark.parametrize("least, reached", [(1, 1), (2, 2), (5, 5), (300, 300)])
def test_a_job_gets_its_number_with_one_more_connection(least, reached):
    ray = NumberedRay()
    ray_cluster.reach_job(ray, least, "10.0.0.1:6379", {"env_vars": {"A": "b"}})
    assert ray.last == reached and len(ray.connections) == (least > 1)
    for options in ray.connections:
        assert options["address"] == "10.0.0.1:6379" and options["runtime_env"] == {"env_vars": {"A": "b"}}


# ---------------------------------------------------------------------------------- temporary files


def test_a_run_has_a_folder_for_temporary_files_whose_name_leaves_room_for_sockets(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(private.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv(private.USUAL, raising=False)
    mark, other = uuid.uuid4().hex, uuid.uuid4().hex
    own, joined = Hardware(device="cpu"), Hardware(device="cpu", ray_address="x:1")
    assert ray_cluster.temporary_folder(own, mark).parent == tmp_path
    assert ray_cluster.temporary_folder(own, mark) != ray_cluster.temporary_folder(own, other)
    socket = f"{ray_cluster.SESSIONS}/session_2026-11-30_09-15-39_472062_1234567/sockets/plasma_store"
    assert len(str(ray_cluster.temporary_folder(joined, mark) / socket)) < 107
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    assert ray_cluster.temporary_folder(own, mark).parent == Path("/scratch")
    assert ray_cluster.temporary_folder(joined, mark).parent == Path("/tmp"), "the same on every node"


def test_what_torch_has_compiled_stays_for_the_next_run(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = ray_cluster.temporary_files(tmp_path)
    assert found["TMPDIR"] == str(tmp_path)
    assert not Path(found["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")
    assert ray_cluster.temporary_files(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == "/cache"


def test_a_run_that_fails_hands_its_error_to_the_cluster(monkeypatch, tmp_path):
    """Which keeps Ray's logs then; after an orderly end it does not."""
    ends = []

    @contextmanager
    def cluster(*_):
        try:
            yield "cluster"
            ends.append(None)
        except RunFailed as error:
            ends.append(str(error))
            raise

    monkeypatch.setattr(ray_cluster, "ray_cluster", cluster)
    config = SimpleNamespace(
        hardware=Hardware(gpus=2), tracking=(), scorer=SimpleNamespace(kind="shared"), domains={}
    )
    with pytest.raises(RunFailed), Cluster(config, tmp_path) as started:
        assert started() == "cluster"
        raise RunFailed("an engine died")
    with Cluster(config, tmp_path) as started:
        started()
    assert ends == ["an engine died", None]


def test_the_logs_of_the_last_failed_attempt_are_kept(tmp_path):
    logs = tmp_path / ray_cluster.SESSION_LOGS
    (logs / "old").mkdir(parents=True)
    (logs / "gcs.err").write_text("why")
    for _ in range(2):
        ray_cluster.keep_logs(logs, tmp_path / "run" / "ray_logs")
        assert (tmp_path / "run" / "ray_logs" / "gcs.err").read_text() == "why"
        assert (tmp_path / "run" / "ray_logs" / "old").exists() == (logs / "old").exists()
        (logs / "old").rmdir() if (logs / "old").exists() else None
    ray_cluster.keep_logs(tmp_path / "none", tmp_path / "run" / "ray_logs")  # of a joined cluster
    assert (tmp_path / "run" / "ray_logs" / "gcs.err").exists()
