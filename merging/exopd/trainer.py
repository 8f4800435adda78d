"""verl's trainers with the shared scorer instead of a pool of teacher servers.

`register_trainer` is verl's registry for that choice (`trainer.v1.trainer_mode`); all steps of the training
remain verl's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from merging.exopd.replicas.start import RunningScorer, bundles_of, start_scorer
from merging.exopd.without_pool import WithoutTeacherPool

TRAINER_MODE = "shared_scorer"
SCORER_SETTINGS = ("base", "device", "dtype", "tokens_per_batch", "canary")
"""What `SharedScorer` reads beside the models; the other settings are the agent loop's."""
SHARED_FOLDER = "scorer_weights"
"""In the training's folder, beside its checkpoints: weights that the replicas share."""


class WithSharedScorer(WithoutTeacherPool):
    """Starts the scorer's replicas on the devices of verl's own workers, and takes turns with them there.

    The replicas start once vLLM has measured how much memory its cache may take. They have the devices'
    memory while rollouts are sampled and scored, and give it back before the update.
    """

    scoring: dict[str, float]
    """Metrics of the scoring of the step that is under way."""

    def _setup(self) -> None:
        super()._setup()  # vLLM is up then, and asleep
        self.scoring = {}
        self.scorer = self._start_scorer()

    def _start_scorer(self) -> RunningScorer:
        settings = self.config.protege.scorer
        (pool,) = self.resource_pool_manager.resource_pool_dict.values()
        return start_scorer(
            {"models": dict(settings.models), **{name: settings[name] for name in SCORER_SETTINGS}},
            settings.replicas,
            bundles_of(pool),
            Path(self.config.trainer.default_local_dir).parent / SHARED_FOLDER,
        )

    def on_init_end(self) -> None:
        """The first weights go to vLLM while the replicas load their models."""
        super().on_init_end()
        self.scorer.wait()
        self.scorer.release()

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """The training, and the scorer's end."""
        try:
            super().fit(*args, **kwargs)
        finally:
            self.scorer.end()

    def on_sample_end(self) -> None:
        """A rollout ends with its scores, so that all of the step's are there; with overlap the next step's
        rollouts begin in verl's own part."""
        self.scoring = self.scorer.release()
        super().on_sample_end()

    def _consume_sync_metrics(self) -> dict[str, Any]:
        """verl's place for a mode's own metrics of a step."""
        return super()._consume_sync_metrics() | self.scoring


@register_trainer(TRAINER_MODE)
class SharedScorerTrainer(WithSharedScorer, PPOTrainerSync):
    """Without overlap; the trainers with it are in `merging.exopd.overlap`."""
