"""How many replicas a config has, and which numbers are refused."""

from __future__ import annotations

import pytest

from tests.helpers.merge_jobs import config_with
from tests.helpers.messages import refuses


@pytest.fixture(scope="module")
def cuda(compiled):
    return compiled(config_with("hardware.device", "cuda"))


def test_the_shared_scorer_has_a_replica_on_each_gpu_and_one_on_a_cpu(compiled, cpu, cuda):
    assert (cpu["protege.scorer.replicas"], cuda["protege.scorer.replicas"]) == (1, 1)
    two = compiled(config_with("hardware.gpus", 2))
    assert two["protege.scorer.replicas"] == 1, "its ranks share the cores"
    gpus = ("hardware.device", "cuda", "hardware.gpus", 4)
    assert compiled(config_with(*gpus))["protege.scorer.replicas"] == 4
    assert compiled(config_with(*gpus, "scorer.replicas", 3))["protege.scorer.replicas"] == 3
    assert config_with("scorer.replicas", 5).scorer.replicas_on(config_with().hardware) == 5


def test_replicas_without_a_device_or_a_shared_scorer_are_refused():
    gpus = ("hardware.device", "cuda", "hardware.gpus", 2, "hardware.nodes", 2, "hardware.ray_address", "h:1")
    with refuses("scorer.replicas: 5", "4 training devices", "valid: 1 to 4", error=ValueError):
        config_with(*gpus, "scorer.replicas", 5)
    with refuses("scorer.replicas: 2", "scorer.kind: pool", "leave it out", error=ValueError):
        config_with("scorer.kind", "pool", "scorer.replicas", 2)
    with refuses("scorer.replicas", "greater than 0", error=ValueError):
        config_with("scorer.replicas", 0)


def test_devices_of_servers_are_the_pools():
    with refuses("hardware.scorer_gpus: 2", "scorer.kind: shared", "leave it out", error=ValueError):
        config_with("hardware.scorer_gpus", 2)
    assert config_with("scorer.kind", "pool", "hardware.scorer_gpus", 2).hardware.scorer_gpus == 2
