"""verl's synchronous trainer with one shared scorer instead of a pool of teacher servers.

verl starts a teacher pool, on devices of its own, whenever its distillation is on. With the shared
scorer the distillation loss is wanted and the pool is not. `register_trainer` is verl's registry for
that choice (`trainer.v1.trainer_mode`); all steps of the training remain verl's.
"""

from __future__ import annotations

import ray
from omegaconf import open_dict
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass

from merging.scorer_actor import start_scorer

TRAINER_MODE = "shared_scorer"


@register_trainer(TRAINER_MODE)
class SharedScorerTrainer(PPOTrainerSync):
    """Starts the scorer beside verl's own workers, so that both load at the same time."""

    def __init__(self, config):
        super().__init__(config)
        self.use_teacher_policy = False
        self.scorer = start_scorer(config)

    @property
    def trainer_mode(self) -> str:
        """verl asks for its own name of the mode to choose synchronous data handling."""
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, value: str) -> None:
        assert value == TRAINER_MODE

    def _init_resource_pool_mgr(self):
        with open_dict(self.config):
            self.config.distillation.enabled = False
            try:
                super()._init_resource_pool_mgr()
            finally:
                self.config.distillation.enabled = True

    def _setup(self):
        super()._setup()
        self.distillation_config = omega_conf_to_dataclass(self.config.distillation)
        ray.get(self.scorer.ready.remote())

    def get_teacher_client(self):
        """verl's agent loop checks the names of its clients against the teachers; none is a server here."""
        return dict.fromkeys(self.distillation_config.teacher_models)
