"""Starting Ray on a busy machine: one more try, and a message instead of a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from trainer import ray_cluster, reaper
from trainer.errors import RunFailed

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
    ray_cluster._init(ray, mark, frozenset({os.getpid()}), num_cpus=4)


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
    with pytest.raises(RunFailed, match="Ray did not start, in two tries: The current node timed out"):
        start(FakeRay(SLOW, SLOW))


def test_any_other_error_is_not_tried_again():
    ray = FakeRay(ValueError("no such option"))
    with pytest.raises(ValueError, match="no such option"):
        start(ray)
    assert ray.calls == [{"num_cpus": 4}]
