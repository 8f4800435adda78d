"""Replicas as Ray actors, on logical devices: where they are, what they read, what happens if one dies."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

import psutil
import pytest
import ray
from ray.util import placement_group_table
from ray.util.placement_group import placement_group

from merging.exopd.objective import optimum
from merging.exopd.replicas.client import Replicas
from merging.exopd.replicas.start import Bundle, start_scorer
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import ROOT, STUDENT
from tests.helpers.scored import SEQUENCES
from trainer.processes import watch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.timeout(300)

NAMES = ("math", "reference")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {"reference": str(STUDENT), "math": str(noisy_copy(tmp_path_factory.mktemp("m") / "m", seed=5))}


@pytest.fixture(scope="module")
def bundles():
    """Two logical devices, reserved as verl does it."""
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ray.init(
        address="local", num_cpus=8, num_gpus=2, runtime_env={"env_vars": environment},
        include_dashboard=False, log_to_driver=False, logging_level="error",
    )  # fmt: skip
    group = placement_group([{"CPU": 3, "GPU": 1}] * 2, strategy="STRICT_PACK")
    ray.get(group.ready())
    yield [Bundle(group, index, processes=3) for index in range(2)]
    ray.shutdown()


def started(models, bundles, replicas, folder, **more):
    settings = {"models": models, "base": str(STUDENT), "device": "cpu", "dtype": "float32",
                "tokens_per_batch": 64, "canary": True}  # fmt: skip
    return start_scorer(settings, replicas, bundles, folder / "shared", **more)


@pytest.fixture(scope="module")
def scorer(models, bundles, tmp_path_factory):
    """Three replicas, two of which share a device: that is for a CPU only, the config refuses it for GPUs."""
    running = started(models, bundles, 3, tmp_path_factory.mktemp("run"))
    running.wait()
    yield running
    running.end()
    assert not running.shared.exists()


def asked(scorer, coroutine_of):
    """The answers of `coroutine_of(client)` for each sequence, all asked at the same time."""

    async def all_of():
        client = Replicas(scorer.broker)
        return await asyncio.gather(*[coroutine_of(client, sequence) for sequence in MANY])

    return asyncio.run(all_of())


MANY = [
    Scored((*before, *each.token_ids), each.response_tokens) for each in SEQUENCES for before in ((), (7,))
]


@pytest.fixture(scope="module")
def alone(models):
    """One scorer in this process."""
    return SharedScorer(models, "cpu", "float32", tokens_per_batch=64)


def test_every_replica_has_the_device_of_its_bundle(scorer, bundles):
    places = scorer.wait()
    nodes = placement_group_table(bundles[0].group)["bundles_to_node_id"]
    assert [place.node for place in places] == [nodes[0], nodes[1], nodes[0]]
    first, second, third = (place.devices for place in places)
    assert first == third and {first, second} == {("0",), ("1",)}
    assert len({place.process for place in places}) == 3


def test_scores_do_not_depend_on_who_reads(scorer, alone):
    scorer.release()  # what was done until now is not counted below
    rows = asked(scorer, lambda client, s: client.score(list(NAMES), list(s.token_ids), s.response_tokens))
    for place, name in enumerate(NAMES):
        for row, expected in zip(rows, alone.score(name, MANY), strict=True):
            torch.testing.assert_close(torch.from_numpy(row[place].copy()), expected, atol=1e-5, rtol=0)
    metrics = scorer.release()
    assert metrics["scorer/passes"] == 2 * len(MANY), "over all replicas, two a rollout"
    assert all(metrics[f"scorer/{number}/busy_seconds"] > 0 for number in range(3)), "all have read"
    assert sum(metrics[f"scorer/{number}/swaps"] for number in range(3)) <= 3 * len(NAMES)
    assert 0 < metrics["scorer/exposed_seconds"] < 60


def test_targets_come_back_whole(scorer, alone):
    found = asked(
        scorer,
        lambda client, s: client.target(list(NAMES), 1.25, 4, list(s.token_ids), s.response_tokens),
    )
    for target, expected in zip(found, alone.targets(list(NAMES), optimum(1.25), MANY, 4), strict=True):
        for name, value in vars(expected).items():
            torch.testing.assert_close(torch.from_numpy(target[name].copy()), value, atol=1e-5, rtol=0)


def test_memory_is_given_back_once_a_step_by_every_replica(scorer):
    before = ray.get([replica.releases.remote() for replica in scorer.replicas])
    first, second = scorer.release(), scorer.release()
    assert first.keys() == second.keys() and second["scorer/passes"] == 0.0
    assert second["scorer/exposed_seconds"] == 0.0
    after = ray.get([replica.releases.remote() for replica in scorer.replicas])
    assert [count - earlier for count, earlier in zip(after, before, strict=True)] == [2, 2, 2]


def test_what_a_replica_refuses_is_raised_and_others_go_on(scorer):
    async def ask():
        client = Replicas(scorer.broker)
        s = SEQUENCES[0]
        with pytest.raises(KeyError, match="nobody"):
            await client.score(["nobody"], list(s.token_ids), s.response_tokens)
        return await client.score(["math"], list(s.token_ids), s.response_tokens)

    (row,) = asyncio.run(ask())
    assert len(row) == len(SEQUENCES[0].token_ids)


def test_a_model_that_cannot_be_read_ends_the_start(models, bundles, tmp_path):
    broken = models | {"math": str(tmp_path / "nowhere")}
    running = started(broken, bundles, 1, tmp_path, name="another")
    try:
        with pytest.raises(ray.exceptions.RayActorError, match="nowhere"):
            running.wait()
    finally:
        running.end()


def test_a_dead_replica_fails_what_waits_and_is_noticed_by_its_name(scorer, monkeypatch):
    """The last test: no more is answered after it."""
    monkeypatch.setattr(watch, "GRACE_SECONDS", 1.0)
    victim, deadline = scorer.wait()[1].process, time.monotonic() + 60
    # no other part: what the test before has started may still be ending
    parts = watch.PartsWatch(lambda: {pid: part for pid, part in watch.live_parts().items() if pid == victim})
    while victim not in parts.settled and time.monotonic() < deadline:
        assert parts.dead() is None
        time.sleep(0.2)
    os.kill(victim, signal.SIGSTOP)  # so that what is asked waits in it

    async def ask():
        client = Replicas(scorer.broker)
        waiting = [
            asyncio.create_task(client.score(list(NAMES), list(s.token_ids), s.response_tokens)) for s in MANY
        ]
        await asyncio.sleep(2)
        os.kill(victim, signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)

    died = r"replica \d of the shared scorer died"
    failed = [answer for answer in asyncio.run(ask()) if isinstance(answer, Exception)]
    assert failed and all(re.search(died, str(error)) for error in failed)
    with pytest.raises(RuntimeError, match=died):
        asked(scorer, lambda client, s: client.score(["math"], list(s.token_ids), s.response_tokens))
    with pytest.raises(RuntimeError, match=died):
        scorer.release()
    while parts.dead() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert re.fullmatch(r"ray::ScorerReplica \(pid \d+\)", parts.dead() or "")
    assert not psutil.pid_exists(victim)
