"""Starts the shared scorer's replicas on the training's own devices, and ends them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from merging.exopd.replicas.actor import Place, ScorerReplica
from merging.exopd.replicas.broker import ScorerBroker
from merging.exopd.replicas.client import BROKER_NAME

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

HOST_THREADS = "4"
"""Threads with which a replica on a GPU copies weights in host memory: Ray would leave it one."""


@dataclass(frozen=True)
class Bundle:
    """One training device, as verl has reserved it."""

    group: PlacementGroup
    index: int
    processes: int
    """Into how many shares verl divides the device for the processes on it; its own worker has one."""


def bundles_of(pool: Any) -> list[Bundle]:
    """The devices of one of verl's resource pools, which are reserved already, in the order of its ranks."""
    assert pool.pgs, "no devices are reserved"
    return [
        Bundle(group, index, pool.max_colocate_count)
        for group in pool.pgs
        for index in range(group.bundle_count)
    ]


def spread(replicas: int, bundles: int) -> list[int]:
    """Bundle of each replica: all apart, and evenly over the nodes, while there are enough bundles."""
    return [number * max(replicas, bundles) // replicas % bundles for number in range(replicas)]


@dataclass(frozen=True)
class RunningScorer:
    """The scorer of one training, from the side of the process that has started it."""

    replicas: tuple[Any, ...]
    broker: Any
    shared: Path
    """Folder of the weights that the replicas share and that are not mapped from the models' own files."""

    def wait(self) -> list[Place]:
        """Where the replicas are, once all have loaded their models; raises what keeps one from it."""
        return ray.get([replica.place.remote() for replica in self.replicas])

    def release(self) -> dict[str, float]:
        """Gives back the devices' memory; returns verl's metrics of the step: see `Broker.release`."""
        return ray.get(self.broker.release.remote())

    def end(self) -> None:
        """Ends all replicas, and removes what they shared."""
        for actor in (self.broker, *self.replicas):
            ray.kill(actor)
        shutil.rmtree(self.shared, ignore_errors=True)


def start_scorer(
    settings: Mapping[str, Any],
    replicas: int,
    bundles: Sequence[Bundle],
    shared: Path,
    name: str = BROKER_NAME,
) -> RunningScorer:
    """Starts so many replicas, each on a bundle, and their broker; waits for none.

    Ray gives a replica the node and the device of its bundle: it takes a share of the device as verl's own
    processes there do. `settings` are those of `SharedScorer` but `shared`, which is a folder that all nodes
    reach; what an earlier attempt has left there is removed. `name` is the broker's.
    """
    shutil.rmtree(shared, ignore_errors=True)
    places = spread(replicas, len(bundles))
    environment = {} if settings["device"] == "cpu" else {"OMP_NUM_THREADS": HOST_THREADS}
    handles = []
    for place in places:
        bundle = bundles[place]
        options = ScorerReplica.options(
            num_cpus=0,
            num_gpus=1 / (bundle.processes * places.count(place)),
            runtime_env={"env_vars": environment},
            scheduling_strategy=PlacementGroupSchedulingStrategy(bundle.group, bundle.index),
        )
        handles.append(options.remote(shared=str(shared), **settings))
    first = PlacementGroupSchedulingStrategy(bundles[0].group, bundles[0].index)
    broker = ScorerBroker.options(
        name=name, num_cpus=0, max_concurrency=100_000, scheduling_strategy=first
    ).remote(handles, settings["tokens_per_batch"])
    return RunningScorer(tuple(handles), broker, shared)
