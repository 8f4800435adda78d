"""Counts the bytes of tensors that are alive at the same time, on a CPU."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorage(TorchDispatchMode):
    """Storage that operations allocate while the mode is on: `live` bytes now, `peak` at most.

    A storage counts once, from the operation that made it until nothing refers to it: neither a variable nor
    the graph of a later backward pass. What exists before counts nothing, and neither does what a kernel
    allocates and frees within itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._counted: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            self._count(tensor, known=True)
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._count(tensor, known=False)
        return result

    def _count(self, tensor: Any, known: bool) -> None:
        """Counts a tensor's storage unless it was counted; one that is `known` existed before the mode."""
        if not isinstance(tensor, torch.Tensor) or type(tensor).__name__ == "DTensor":
            return
        storage = tensor.untyped_storage()
        key = id(storage)  # one Python object stands for a storage while it lives
        if key in self._counted:
            return
        size = 0 if known else storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)

        def freed(_: weakref.ref, key: int = key, size: int = size) -> None:
            self._counted.pop(key, None)
            self.live -= size

        self._counted[key] = weakref.ref(storage, freed)
