"""Weights from a trainer on a CPU to engines that do not share its processes, over ZeroMQ.

verl's checkpoint engines (`...rollout.checkpoint_engine.backend`) need an accelerator or RDMA. verl imports
this module where weights are sent and received (`custom_backend_module`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import torch
import zmq
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

HOST = "tcp://127.0.0.1"
"""Engines on devices of their own are on the trainer's machine."""

TIMEOUT_MS = 300_000
"""Longest wait for the other side."""


@CheckpointEngineRegistry.register("zmq")  # pyright: ignore[reportAttributeAccessIssue]
class ZmqCheckpointEngine(CheckpointEngine):
    """The trainer's first rank pushes one tensor after the other to every worker of the engines.

    The trainer's other ranks only take part in gathering each tensor.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.sockets: list[zmq.Socket] = []

    def prepare(self) -> dict[str, Any]:
        """`address` at which this process would receive."""
        return {"address": f"{HOST}:{self._socket(zmq.PULL).bind_to_random_port(HOST)}"}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Arguments of `init_process_group` of the trainer's ranks and of the engines' workers: to whom they
        send."""
        engines = [told["address"] for told in metadata[actor_wg_world_size:]]
        trainer = [engines] + [[]] * (actor_wg_world_size - 1)
        return {"receivers": trainer}, {"receivers": [[]] * rollout_world_size}

    def init_process_group(self, receivers: list[str]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  what build_topology names
        """Connects the sender."""
        if receivers:
            self.finalize()
        for address in receivers:
            self._socket(zmq.PUSH).connect(address)

    def finalize(self) -> None:
        """Closes what this exchange has opened; called when every worker has received all."""
        for socket in self.sockets:
            socket.close()
        self.sockets = []

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> None:
        """Called on every rank of the trainer."""
        senders = [socket for socket in self.sockets if socket.type == zmq.PUSH]
        for name, weight in weights:
            if senders:
                content = weight.detach().contiguous().view(-1).view(torch.uint8).numpy()
                head = [name, list(weight.shape), str(weight.dtype).removeprefix("torch.")]
                self._send(senders, json.dumps(head).encode(), content)
        self._send(senders, END)

    async def receive_weights(  # pyright: ignore[reportIncompatibleMethodOverride]  as verl's engines do
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Called on every worker of an engine; yields names and tensors."""
        (socket,) = self.sockets
        while (parts := socket.recv_multipart()) != [END]:
            name, shape, dtype = json.loads(parts[0])
            yield name, torch.frombuffer(bytearray(parts[1]), dtype=getattr(torch, dtype)).view(shape)

    def _send(self, senders: list[zmq.Socket], *parts: Any) -> None:
        for socket in senders:
            socket.send_multipart(parts)

    def _socket(self, kind: int) -> zmq.Socket:
        socket = zmq.Context.instance().socket(kind)
        socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        socket.setsockopt(zmq.SNDTIMEO, TIMEOUT_MS)
        self.sockets.append(socket)
        return socket


END = b"end"
"""The message behind the last tensor."""
