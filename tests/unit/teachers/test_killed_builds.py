"""Builds that are killed at random moments, and two processes that want the same expert."""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest

from teachers.registry.local import Registry
from tests.helpers.killed_builds import STEP_SECONDS, STEPS, build
from trainer.run import last_checkpoint

KILLS_IN_TRAINING, KILLS_IN_STORING = 7, 3
LONG = 120.0


class Build:
    """One process that builds, and what it tells of itself."""

    def __init__(self, context, registry):
        self.training, self.trained = context.Event(), context.Event()
        arguments = (str(registry.root), self.training.set, self.trained.set)
        self.process = context.Process(target=build, args=arguments)
        self.process.start()

    def ends(self) -> bool:
        self.process.join(LONG)
        return self.process.exitcode == 0

    def killed(self, event, seconds: float) -> bool:
        """Kills it some time after the event; False where it had ended by then."""
        while not event.wait(0.05) and self.process.is_alive():
            pass
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        return self.process.exitcode != 0


@pytest.fixture(scope="module")
def context():
    """Starts processes that have imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch",
            "transformers",
            "teachers.build",
            "tests.helpers.verl_checkpoints",
            "tests.helpers.expert_orders",
        ]
    )
    return context


@pytest.fixture(scope="module")
def uninterrupted(context, tmp_path_factory):
    """The record of a build that nobody disturbed, and the seconds that storing took after the training."""
    registry = Registry(tmp_path_factory.mktemp("uninterrupted"))
    first = Build(context, registry)
    assert first.trained.wait(LONG)
    began = time.monotonic()
    assert first.ends()
    (record,) = registry.list()
    assert (record.resumed, record.attempts) == (0, 1)
    return record, time.monotonic() - began


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills_at_random_moments_leave_one_whole_expert(context, uninterrupted, tmp_path, seed):
    registry, chance = Registry(tmp_path / "home"), random.Random(seed)
    undisturbed, storing_seconds = uninterrupted
    checkpoints = registry.root / "building" / undisturbed.id / "checkpoints"
    reached = []
    for _ in range(KILLS_IN_TRAINING):
        running = Build(context, registry)
        assert running.killed(running.training, chance.uniform(0, 4 * STEP_SECONDS))
        reached.append(last_checkpoint(checkpoints))
        assert registry.list() == []
    assert reached == sorted(reached) and 0 < reached[-1] < STEPS  # it goes on from where it was
    for _ in range(KILLS_IN_STORING):
        running = Build(context, registry)
        running.killed(running.trained, chance.uniform(0, 0.8 * storing_seconds))
        for record in registry.list():  # whatever is visible is whole
            registry.verify(record.id)
    assert Build(context, registry).ends()
    (record,) = registry.list()
    assert registry.verify(record.id) == record
    assert (record.id, record.weights_sha256) == (undisturbed.id, undisturbed.weights_sha256)
    assert registry.curve(record) == [{"step": s, "reward": s / 10} for s in range(1, STEPS + 1)]
    assert record.resumed == record.attempts - 1 and 2 <= record.resumed <= KILLS_IN_TRAINING
    assert [path.name for path in (registry.root / "experts").iterdir()] == [record.id]
    assert [path.name for path in (registry.root / "building").iterdir()] == [f"{record.id}.lock"]


def test_two_processes_build_it_once(context, uninterrupted, tmp_path):
    registry = Registry(tmp_path / "home")
    both = [Build(context, registry), Build(context, registry)]
    assert all(each.ends() for each in both)
    assert sorted(each.training.is_set() for each in both) == [False, True]
    (record,) = registry.list()
    assert (record.attempts, record.weights_sha256) == (1, uninterrupted[0].weights_sha256)
    assert registry.verify(record.id) == record
