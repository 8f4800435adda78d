"""How verl's pool of teacher servers is laid over devices and nodes.

verl counts `distillation.nnodes * n_gpus_per_node` devices, which must be the sum of all servers, and gives
them to the servers in the order of the teachers' entries, without regard to where a node ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from common.errors import ConfigError
from configs.schema import MergeConfig
from merging.exopd.lambda_schedule import EverRead, read_by_trainings
from merging.exopd.names import references


@dataclass(frozen=True)
class ModelServers:
    """The servers of one model."""

    replicas: int
    tensor_parallel: int

    @property
    def devices(self) -> int:
        return self.replicas * self.tensor_parallel


@dataclass(frozen=True)
class PoolLayout:
    """The servers of all models that the pool holds, in the order in which they get their devices."""

    servers: Mapping[str, ModelServers]
    nodes: int

    @property
    def devices(self) -> int:
        return sum(own.devices for own in self.servers.values())

    @property
    def devices_per_node(self) -> int:
        return self.devices // self.nodes if self.nodes else 0


def widest_pool(config: MergeConfig) -> PoolLayout:
    """Of the layouts of the config's trainings, the one with most devices; raises as `pool_layout` does."""
    if config.scorer.kind != "pool":
        return PoolLayout({}, 0)
    return max((pool_layout(config, read) for read in read_by_trainings(config)), key=lambda own: own.devices)


def pool_layout(config: MergeConfig, read: EverRead) -> PoolLayout:
    """The layout of a training's pool: the widest servers first, so that they begin where a node begins.

    `read` names the models that the training reads. On several nodes every model has its servers all the
    same, so that all trainings have the same layout. An empty one where the scorer is shared. Raises
    ConfigError where the devices cannot be spread evenly, or a server would lie across nodes.
    """
    declared = config.scorer.pool
    if config.scorer.kind != "pool":
        return PoolLayout({}, 0)
    servers: dict[str, ModelServers] = {}
    everything = EverRead(tuple(config.domains), tuple(config.domains))
    for model in models_of(config, everything if declared.nodes > 1 else read):
        own = declared.models.get(model.partition(":")[0], declared.default)
        width = own.tensor_parallel or declared.default.tensor_parallel or config.hardware.scorer_gpus
        servers[model] = ModelServers(own.replicas, width)
    ordered = dict(sorted(servers.items(), key=lambda item: -item[1].tensor_parallel))
    layout = PoolLayout(ordered, declared.nodes)
    if problem := next(_problems(layout), None):
        raise ConfigError(problem)
    return layout


def models_of(config: MergeConfig, read: EverRead) -> list[str]:
    """Names of the models that the scorer holds for a training: teachers and references that it reads, but
    for those that are served."""
    served, names = config.served(), references(config)[0]
    wanted = [*read.teachers, *(names[domain] for domain in read.references)]
    return [name for name in dict.fromkeys(wanted) if name not in served]


def _problems(layout: PoolLayout) -> Iterator[str]:
    """What verl would refuse once Ray has started."""
    if layout.devices % layout.nodes:
        sums = " + ".join(f"{own.replicas} x {own.tensor_parallel}" for own in layout.servers.values())
        yield (
            f"scorer.pool.nodes = {layout.nodes} does not divide the pool's {layout.devices} devices "
            f"({sums}: replicas x tensor_parallel of {', '.join(layout.servers)}); change replicas, or nodes"
        )
        return
    size, start = layout.devices_per_node, 0
    for model, own in layout.servers.items():
        for _ in range(own.replicas):
            last = start + own.tensor_parallel - 1
            if last // size - start // size + 1 > -(-own.tensor_parallel // size):
                yield (
                    f"scorer.pool: a server of {model} (tensor_parallel {own.tensor_parallel}) would lie "
                    f"across the nodes, each of {size} of the pool's devices; choose tensor_parallel that "
                    f"divides {size}, or other replicas"
                )
                return
            start = last + 1
