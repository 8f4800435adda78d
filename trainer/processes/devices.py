"""Whether a Ray cluster that is joined has room for a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError
from configs.schema import Hardware

CPUS_A_DEVICE = 3
"""Ray's CPUs that verl reserves beside every device."""

CPUS_BESIDE = {"cpu": 6, "cuda": 13}
"""Ray's CPUs for everything else, wherever it finds room: verl's runner, its transfer queue (a controller,
and one storage unit on a CPU, eight elsewhere), the watchers' and servers' starts."""


def check_devices(
    hardware: Hardware, pool_devices: int, nodes: Sequence[Mapping[str, Any]], pool_nodes: int = 1
) -> None:
    """Raises ConfigError for a cluster that can never hold the training: verl would wait for ever.

    `nodes` are Ray's; `pool_devices` is what the teachers' servers need beside the training, in `pool_nodes`
    equal groups, each on one node. What other jobs hold at the moment does not count.
    """
    alive = living(nodes)
    rooms = [(int(_has(node, "GPU")), _has(node, "CPU")) for node in alive]
    wanted = hardware.nodes * hardware.gpus
    what = f"hardware: {_groups(hardware.nodes, hardware.gpus)}"
    pool = _Groups(pool_nodes, pool_devices // pool_nodes)
    if pool_devices:
        times = "" if pool_nodes == 1 else f"{pool_nodes} times "
        what += f" and {times}{pool.size} on one node for the teachers' servers"
    has = "; ".join(
        f"{name_of(node)} has {g} GPUs and {c:g} CPUs" for node, (g, c) in zip(alive, rooms, strict=True)
    )
    cluster = f"the Ray cluster {hardware.ray_address} cannot give them ({has})"
    training = _Groups(hardware.nodes, hardware.gpus)
    if not _fits(training, pool, [devices for devices, _ in rooms]):
        raise ConfigError(
            f"{what} are needed, and {cluster}; hardware.gpus counts the devices of one node, and "
            "`ray start --num-gpus=N` declares N on a machine without an accelerator"
        )
    by_cpus = [min(devices, int(cpus // CPUS_A_DEVICE)) for devices, cpus in rooms]
    beside = CPUS_BESIDE[hardware.device]
    enough = sum(cpus for _, cpus in rooms) >= CPUS_A_DEVICE * (wanted + pool_devices) + beside
    if not enough or not _fits(training, pool, by_cpus):
        raise ConfigError(
            f"{what} are needed, with {CPUS_A_DEVICE} of Ray's CPUs for each and {beside} beside them, and "
            f"{cluster}; Ray's CPUs are slots and not cores: `ray start --num-cpus=64` declares 64"
        )


@dataclass(frozen=True)
class _Groups:
    """Groups of devices, each of them on one node."""

    count: int
    size: int


def _fits(training: _Groups, pool: _Groups, devices: Sequence[int]) -> bool:
    """Whether all groups find room; a node may hold several.

    From node to node: for each number of the pool's groups placed so far, the most of the training's that
    fit beside them.
    """
    wanted = pool.count if pool.size else 0
    most = {0: 0}
    for room in devices:
        following: dict[int, int] = {}
        for placed, beside in most.items():
            for added in range(wanted - placed + 1):
                left = room - added * pool.size
                if left >= 0:
                    reached = beside + left // training.size
                    following[placed + added] = max(reached, following.get(placed + added, 0))
        most = following
    return most.get(wanted, -1) >= training.count


def _groups(nodes: int, gpus: int) -> str:
    return f"{gpus} GPUs on one node" if nodes == 1 else f"{nodes} times {gpus} GPUs, each time on one node,"


def living(nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of Ray's nodes that have not ended."""
    return [node for node in nodes if node["Alive"]]


def name_of(node: Mapping[str, Any]) -> str:
    """Address and the beginning of the id: several nodes may share a machine."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def _has(node: Mapping[str, Any], resource: str) -> float:
    return float(node["Resources"].get(resource, 0))
