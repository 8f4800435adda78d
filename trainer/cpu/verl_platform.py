"""verl's plug-in module for machines without an accelerator (entry point `verl.plugins`).

verl loads this module in every process that imports it and never calls anything, so the work is done
at import, and only where `VERL_PLATFORM=cpu`. verl reports a plug-in that fails to load at debug level
only; `protege doctor` and every run therefore check that the platform is registered.
"""

from __future__ import annotations

import functools
import os
import resource
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

ENABLED = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def _resident_bytes(*_args: object, **_kwargs: object) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _no_op(*_args: object, **_kwargs: object) -> None:
    return None


@functools.cache
def _device_module() -> Any:
    """What verl expects of `torch.cuda`, answered for the CPU."""
    import torch

    return SimpleNamespace(
        is_available=lambda: False,  # makes verl skip every accelerator-cache path
        current_device=lambda: "cpu",
        device_count=lambda: 1,
        set_device=_no_op,
        synchronize=_no_op,
        empty_cache=_no_op,
        ipc_collect=_no_op,
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        memory_allocated=_resident_bytes,
        memory_reserved=_resident_bytes,
        max_memory_allocated=_resident_bytes,
        max_memory_reserved=_resident_bytes,
        reset_peak_memory_stats=_no_op,
        mem_get_info=lambda *_: (0, 0),
        get_device_name=lambda *_: "CPU",
    )


def _register_platform() -> None:
    from verl.plugin.platform import PlatformBase, PlatformRegistry

    @PlatformRegistry.register(platform="cpu")
    class CPUPlatform(PlatformBase):
        """A CPU as verl's device: logical GPUs of Ray, gloo, shared-memory weight transfer."""

        @property
        def device_name(self) -> str:
            return "cpu"

        @property
        def vendor_name(self) -> str:
            return "cpu"

        @property
        def device_module(self) -> Any:
            return _device_module()

        def is_available(self) -> bool:
            return True

        def is_platform_available(self, use_smi_check: bool = False) -> bool:
            return False  # never detected by itself: only VERL_PLATFORM=cpu chooses it

        def current_device(self) -> Any:
            return "cpu"  # declared as a number, used as torch's device

        def device_count(self) -> int:
            return 1

        def set_device(self, device_index: int) -> None:
            pass

        def synchronize(self, device_index: int | None = None) -> None:
            pass

        def manual_seed(self, seed: int) -> None:
            self.device_module.manual_seed(seed)

        def manual_seed_all(self, seed: int) -> None:
            self.device_module.manual_seed(seed)

        def set_allocator_settings(self, settings: str) -> None:
            pass

        def empty_cache(self) -> None:
            pass

        def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "PROTEGE_CPU_VISIBLE_DEVICES"

        def nvtx_range(self, msg: str) -> Any:
            return nullcontext()

        def profiler_start(self) -> None:
            pass

        def profiler_stop(self) -> None:
            pass

        def ray_resource_name(self) -> str:
            return "GPU"  # logical: ray.init(num_gpus=...) declares them

        def ray_noset_envvars(self) -> list[str]:
            return []

        def is_ipc_supported(self) -> bool:
            return False

        def rollout_env_vars(self) -> dict[str, str]:
            names = ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE")
            return {name: os.environ[name] for name in names if name in os.environ}

        def cudart(self) -> None:
            return None


def _use_one_process_group_backend() -> None:
    """verl asks torch for "cpu:gloo,cpu:gloo" on a CPU, and torch refuses a device named twice.

    `initialize_global_process_group_ray` takes a backend argument; its callers leave it out.
    """
    import verl.utils.distributed as distributed

    original = distributed.initialize_global_process_group_ray

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    distributed.initialize_global_process_group_ray = initialize


if ENABLED:
    _register_platform()
    _use_one_process_group_backend()
