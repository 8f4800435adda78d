"""Weights on their way from mapped files to a device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BUFFER_BYTES = 2**28
"""Of each of the two buffers."""


class Staging:
    """Copies weights to a device through two pinned buffers.

    A device reads pinned memory without the driver's own copy. Pinning the mapped pages themselves would take
    all models' pages out of the kernel's hands, and a private mapping, which theirs is, may get pages of its
    own by it. So the pages are copied into one pinned buffer while the device reads the other: a swap takes
    as long as the slower of both copies, and each process pins 512 MiB, whatever the models' sizes.

    Args:
        device: where the copies' targets are. The buffers are pinned for "cuda" only.
        buffer_bytes: of each of the two buffers, which are allocated by the first copy.
    """

    def __init__(self, device: torch.device, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.device, self.buffer_bytes = device, buffer_bytes
        self.buffers: list[torch.Tensor] = []
        self.read: list[torch.cuda.Event] = []
        """Of each buffer: the device has read it."""
        self.sent = 0

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def copy(self, sources: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> None:
        """Fills every target from the source of its name, of the same shape and format; returns when all are
        there. Targets that share their memory are filled once."""
        import torch

        unique = {target.data_ptr(): (sources[name], target) for name, target in targets.items()}
        with torch.cuda.device(self.device) if self._cuda else nullcontext():
            self._allocate()
            for pair in unique.values():
                parts = (_bytes(tensor).split(self.buffer_bytes) for tensor in pair)
                for source_part, target_part in zip(*parts, strict=True):
                    self._send(source_part, target_part)
            if self._cuda:
                torch.cuda.synchronize()

    def _allocate(self) -> None:
        import torch

        if not self.buffers:
            self.buffers = [
                torch.empty(self.buffer_bytes, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(2)
            ]
            self.read = [torch.cuda.Event() for _ in self.buffers] if self._cuda else []

    def _send(self, source: torch.Tensor, target: torch.Tensor) -> None:
        turn = self.sent % len(self.buffers)
        self.sent += 1
        if self._cuda:
            self.read[turn].synchronize()
        staged = self.buffers[turn][: len(source)]
        staged.copy_(source)
        target.copy_(staged, non_blocking=True)
        if self._cuda:
            self.read[turn].record()


def staging_for(device: torch.device) -> Staging | None:
    """None for a CPU, where a module holds the host's weights themselves."""
    return None if device.type == "cpu" else Staging(device)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's memory as a row of bytes; it is contiguous."""
    import torch

    return tensor.view(-1).view(torch.uint8)
