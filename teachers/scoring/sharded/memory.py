"""What the sharded scorer holds on a device while it scores: arithmetic, in bfloat16 on CUDA."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.memory import HALF, SCORED_LOGIT_BYTES, ModelSize, Parts, reading_bytes_per_token

GATHERED_UNITS = 3
"""Units of FSDP2 (a layer, the embedding, the output head) that a device holds whole: the one that computes,
the buffer in which it came, and that of the next one, which is on its way. Counted on a CPU, where nothing is
on its way, it is two."""


def sharded_scorer_parts(
    models: Sequence[ModelSize], *, devices: int, tokens: int, logits_at_once: int
) -> Parts:
    """Bytes by part of the model that takes most, of which one at a time is loaded.

    It is loaded between rollout and update, beside what the trainer keeps on the device and the sleeping
    rollout. `devices` are the training devices of all nodes, `tokens` those of one pass, `logits_at_once`
    those of a chunk of the trainer's output head. Nothing of it is left in the other phases.
    """
    parts = [_parts(model, devices, tokens, logits_at_once) for model in models]
    return max(parts, key=lambda of_model: sum(of_model.values()))


def _parts(model: ModelSize, devices: int, tokens: int, logits_at_once: int) -> Parts:
    gathered = GATHERED_UNITS * max(model.layer, model.head) + model.tied * model.head
    return {
        "scorer": HALF * model.parameters // devices,
        "scorer, gathered": HALF * gathered,
        "scoring": tokens * reading_bytes_per_token(model) + SCORED_LOGIT_BYTES * logits_at_once,
    }
