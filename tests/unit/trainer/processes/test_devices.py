"""Which joined clusters have room for a training: Ray would wait for ever for what none can give."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from configs.schema import Hardware
from trainer.processes.devices import check_devices


def cluster(*rooms: tuple[int, int], dead: tuple[int, int] = (0, 0)) -> list[dict]:
    """Ray's nodes with (GPUs, CPUs) each, and one that has ended."""
    nodes = [
        {"Alive": True, "NodeID": f"{place:02d}cdef", "NodeManagerAddress": f"10.0.0.{place}",
         "Resources": {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})}
        for place, (gpus, cpus) in enumerate(rooms)
    ]  # fmt: skip
    resources = {"GPU": float(dead[0]), "CPU": float(dead[1])}
    gone = {"Alive": False, "NodeID": "ff", "NodeManagerAddress": "10.9.9.9", "Resources": resources}
    return [*nodes, gone]


def hardware(gpus: int, nodes: int, device: str = "cpu") -> Hardware:
    return Hardware(device=device, gpus=gpus, nodes=nodes, ray_address="10.0.0.0:6379")


@pytest.mark.parametrize(
    "gpus, nodes, pool, rooms",
    [
        (1, 1, 0, [(1, 9)]),
        (2, 1, 0, [(0, 8), (2, 64)]),  # a head without devices
        (1, 2, 0, [(0, 8), (1, 64), (1, 64)]),
        (1, 2, 0, [(2, 64)]),  # both groups find room on one node
        (2, 1, 3, [(2, 64), (3, 64)]),
        (2, 1, 3, [(5, 64)]),
        (1, 1, 0, [(1, 3), (0, 6)]),
    ],
)
def test_room_enough(gpus, nodes, pool, rooms):
    check_devices(hardware(gpus, nodes), pool, cluster(*rooms))


@pytest.mark.parametrize(
    "gpus, nodes, pool, rooms",
    [
        (2, 1, 0, [(1, 64), (1, 64)]),  # two devices, but not on one node
        (1, 2, 0, [(0, 8), (1, 64)]),
        (2, 1, 3, [(4, 64)]),
        (2, 1, 3, [(2, 64), (2, 64)]),
        (1, 1, 0, [(0, 64)]),
    ],
)
def test_devices_that_no_node_has_are_refused(gpus, nodes, pool, rooms):
    with pytest.raises(ConfigError, match="--num-gpus") as refused:
        check_devices(hardware(gpus, nodes), pool, cluster(*rooms, dead=(8, 64)))
    assert f"10.0.0.0 (00cdef) has {rooms[0][0]} GPUs and {rooms[0][1]} CPUs" in str(refused.value)
    assert "10.9.9.9" not in str(refused.value)


@pytest.mark.parametrize(
    "pool, pool_nodes, rooms, fits",
    [
        (8, 2, [(2, 64), (4, 64), (4, 64)], True),
        (8, 2, [(2, 64), (8, 64)], True),  # both groups of the pool on one node
        (8, 2, [(6, 64), (4, 64)], True),
        (8, 1, [(2, 64), (4, 64), (4, 64)], False),
        (8, 2, [(3, 64), (3, 64), (4, 64)], False),
        (8, 2, [(4, 64), (4, 64)], False),  # nothing is left for the training
        (6, 3, [(2, 64)] * 3 + [(2, 64)], True),
    ],
)
def test_a_pool_over_several_nodes_needs_its_groups(pool, pool_nodes, rooms, fits):
    if fits:
        check_devices(hardware(2, 1), pool, cluster(*rooms), pool_nodes)
        return
    times = f"{pool_nodes} times " if pool_nodes > 1 else ""
    with pytest.raises(ConfigError, match=f"and {times}{pool // pool_nodes} on one node for the teachers'"):
        check_devices(hardware(2, 1), pool, cluster(*rooms), pool_nodes)


@pytest.mark.parametrize(
    "gpus, rooms, device",
    [
        (2, [(2, 2)], "cpu"),  # what `ray start --num-gpus=2` declares on two cores
        (1, [(1, 8)], "cpu"),  # 3 beside the device and 6 more
        (2, [(2, 5), (0, 64)], "cpu"),
        (1, [(1, 15)], "cuda"),  # the transfer queue has eight storage units there
    ],
)
def test_too_few_slots_are_refused(gpus, rooms, device):
    with pytest.raises(ConfigError, match="--num-cpus=64"):
        check_devices(hardware(gpus, 1, device), 0, cluster(*rooms))
