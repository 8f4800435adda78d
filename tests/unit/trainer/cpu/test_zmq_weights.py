"""Weights that a trainer sends to engines of other processes."""

from __future__ import annotations

import asyncio

import pytest
import torch

from tests.helpers.ranks import on_ranks

pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = {
    "embedding": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.0),
    "turned": torch.arange(6.0).view(2, 3).t(),
}


def exchange(trainer_ranks: int, engines: int, times: int) -> tuple[list[str], list[dict]]:
    """What one process does in some exchanges: the names that it gathered, and the tensors that it got."""
    import torch.distributed

    from trainer.cpu.zmq_weights import ZmqCheckpointEngine

    rank = torch.distributed.get_rank()
    engine = ZmqCheckpointEngine(bucket_size=1, is_master=rank == 0)
    gathered: list[str] = []
    got: list[dict] = []
    for time in range(times):
        metadata: list = [None] * (trainer_ranks + engines)
        torch.distributed.all_gather_object(metadata, engine.prepare())
        parts = ZmqCheckpointEngine.build_topology(trainer_ranks, engines, metadata)
        arguments = [
            {name: values[place] for name, values in part.items()}
            for part, size in zip(parts, (trainer_ranks, engines), strict=True)
            for place in range(size)
        ]
        engine.init_process_group(**arguments[rank])
        if rank < trainer_ranks:
            sent = ((name, gathered.append(name) or weight + time) for name, weight in WEIGHTS.items())
            asyncio.run(engine.send_weights(sent))
        else:
            got.append(asyncio.run(received(engine)))
        torch.distributed.barrier()
        engine.finalize()
    return gathered, got


async def received(engine) -> dict[str, torch.Tensor]:
    return {name: weight async for name, weight in engine.receive_weights()}


def test_every_engine_gets_every_tensor_bit_by_bit_each_time():
    found = on_ranks(exchange, 4, 2, 2, 2)
    # each rank of the trainer walks through all of them: gathering one takes all ranks
    assert [gathered for gathered, _ in found] == [[*WEIGHTS, *WEIGHTS]] * 2 + [[], []]
    for _, exchanges in found[2:]:
        for time, weights in enumerate(exchanges):
            assert weights.keys() == WEIGHTS.keys()
            for name, weight in WEIGHTS.items():
                assert weights[name].dtype == weight.dtype, name
                assert torch.equal(weights[name], weight + time), name


def test_verl_finds_it_by_name():
    from verl.checkpoint_engine import CheckpointEngineRegistry

    from trainer.cpu.zmq_weights import ZmqCheckpointEngine

    assert CheckpointEngineRegistry.get("zmq") is ZmqCheckpointEngine
