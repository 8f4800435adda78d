"""The trainers whose rollouts are one step ahead (`trainer.within.read_ahead`), with the shared scorer."""

from __future__ import annotations

from verl.trainer.ppo.v1.trainer_base import register_trainer

from merging.exopd.names import with_shared_scorer
from merging.exopd.trainer import WithSharedScorer
from trainer.overlap import SEPARATE_MODE, SHARED_DEVICES_MODE
from trainer.within.read_ahead import SeparateDevices, SharedDevices


@register_trainer(with_shared_scorer(SHARED_DEVICES_MODE))
class SharedScorerAhead(WithSharedScorer, SharedDevices):
    """Engines and trainer on the same devices."""


@register_trainer(with_shared_scorer(SEPARATE_MODE))
class SharedScorerSeparateAhead(WithSharedScorer, SeparateDevices):
    """Engines on devices of their own."""
