"""Registers the engines of every training (`actor_rollout_ref.model.external_lib`) with verl.

verl finds an engine by model type and device, and looks for one of the device's vendor first.
`language_model` is verl's own name, and its supervised trainer knows no other: on CUDA ours stands under the
vendor. On a CPU verl registers nothing.
"""

from __future__ import annotations

from verl.plugin.platform import get_platform
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from trainer.cpu.engines import for_cpu
from trainer.cpu.shared_blocks import note_blocks
from trainer.engine.attention import register_packed
from trainer.engine.names import LANGUAGE_MODEL, WITHOUT_OLD_ENTROPY
from trainer.engine.scoring_engine import scoring
from trainer.engine.sequence_parallel import packed_sdpa_over_ranks


def engine_class() -> type:
    """The engine of this platform's device, which others may extend."""
    on_cpu = get_platform().device_name == "cpu"
    return scoring(for_cpu(FSDPEngineWithLMHead) if on_cpu else FSDPEngineWithLMHead)


def register(model_type: str, engine: type) -> None:
    """Registers an engine for this platform; a name that is taken here stays as it is."""
    platform = get_platform()
    device = platform.device_name
    vendor = None if device == "cpu" else platform.vendor_name
    key = (device, vendor) if vendor else device
    if key not in EngineRegistry._engines.get(model_type, {}).get("fsdp2", {}):
        EngineRegistry.register(model_type, ["fsdp", "fsdp2"], device, vendor)(engine)


def _register_all() -> None:
    register_packed(packed_sdpa_over_ranks)
    if get_platform().device_name == "cpu":
        note_blocks()
    plain = engine_class()
    register(LANGUAGE_MODEL, plain)
    without = type("ScoringEngineWithoutOldEntropy", (plain,), {"measures_old_entropy": False})
    register(WITHOUT_OLD_ENTROPY, without)


_register_all()
