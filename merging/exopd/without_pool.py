"""What trainers of ours that score without verl's teacher servers have in common.

verl starts a teacher pool, on devices of its own, whenever its distillation is on. With a scorer of ours the
distillation loss is wanted and the pool is not.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, open_dict
from verl.utils.config import omega_conf_to_dataclass

from trainer.within.own_mode import OwnMode


class WithoutTeacherPool(OwnMode):
    """verl's trainer with the distillation loss and without a pool of teachers, under a name of ours.

    Stands before one of verl's trainers among the bases of a class.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.use_teacher_policy = False

    def _init_resource_pool_mgr(self) -> None:
        with open_dict(self.config):
            self.config.distillation.enabled = False
            try:
                super()._init_resource_pool_mgr()
            finally:
                self.config.distillation.enabled = True

    def _setup(self) -> None:
        super()._setup()
        self.distillation_config = omega_conf_to_dataclass(self.config.distillation)

    def get_teacher_client(self) -> Any:
        """verl's agent loop checks the names of its clients against the teachers; none is a server here."""
        return dict.fromkeys(self.distillation_config.teacher_models)
