"""What verl is told for a training whose rollouts are one step ahead (`trainer.within.read_ahead`)."""

from __future__ import annotations

from typing import Any

from configs.schema import Hardware

SHARED_DEVICES_MODE, SEPARATE_MODE = "one_step", "one_step_separate"
"""Names in verl's registry of trainers: rollouts on the trainer's devices, or on devices of their own."""

ROLLOUT = "actor_rollout_ref.rollout"


def overlap_settings(hardware: Hardware) -> dict[str, Any]:
    """Settings beside the trainer's mode."""
    # an engine that hands its memory to the update cannot sample meanwhile
    awake = {f"{ROLLOUT}.free_cache_engine": False, f"{ROLLOUT}.enable_sleep_mode": False}
    return awake | (_separate(hardware) if hardware.rollout_gpus else {})


def _separate(hardware: Hardware) -> dict[str, Any]:
    engine = f"{ROLLOUT}.checkpoint_engine"
    if hardware.device == "cpu":
        backend = {f"{engine}.backend": "zmq", f"{engine}.custom_backend_module": "trainer.cpu.zmq_weights"}
    else:
        backend = {f"{engine}.backend": "nccl"}
    return backend | {f"{ROLLOUT}.nnodes": 1, f"{ROLLOUT}.n_gpus_per_node": hardware.rollout_gpus}
