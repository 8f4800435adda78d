"""FSDP2 engines for the device "cpu".

verl has them for CUDA and NPU only. The classes are verl's own but for two things: the forward-only
reference must not pin host memory, because there is no accelerator to pin it for, and a model with a LoRA
adapter is sent to the rollout as it is, not rounded to bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed.fsdp as torch_fsdp
import verl.workers.engine.fsdp.transformer_impl as fsdp
from verl.utils.fsdp_utils import merged_lora_context, normalize_peft_param_name
from verl.utils.model import convert_weight_keys


class _UnpinnedOffload(torch_fsdp.CPUOffloadPolicy):
    def __init__(self, pin_memory: bool = False) -> None:
        super().__init__(pin_memory=False)


def for_cpu(engine_class: type) -> type:
    """A subclass of verl's FSDP engine class that works without an accelerator."""

    class CPUEngine(engine_class):
        def _build_fsdp_module(self, module: torch.nn.Module) -> Any:
            names = fsdp.__dict__
            original, names["CPUOffloadPolicy"] = names["CPUOffloadPolicy"], _UnpinnedOffload
            try:
                return super()._build_fsdp_module(module)
            finally:
                names["CPUOffloadPolicy"] = original

        def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, torch.Tensor]]:
            with merged_lora_context(self.module, backup_adapters=True):
                params = normalize_peft_param_name(self.module.state_dict())
                for name, param in convert_weight_keys(params, self.module).items():
                    # copies: these tensors are the live weights, which the end of the context restores
                    yield name, getattr(param, "full_tensor", lambda own=param: own)().detach().clone()

    CPUEngine.__name__ = f"{engine_class.__name__}CPU"
    return CPUEngine
