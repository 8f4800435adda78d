"""What trainers of ours have in common in verl's trainer registry (`trainer.v1.trainer_mode`)."""

from __future__ import annotations

from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer


class OwnMode(PPOTrainer):
    """A trainer with a name of its own and verl's synchronous data handling, which verl asks for by name.

    Rows are read in whole steps, a checkpoint holds the reader's position and no rollouts, and no row is
    dropped or taken again.
    """

    @property
    def trainer_mode(self) -> str:
        """verl's name of the mode whose data handling is used."""
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, value: str) -> None:
        assert value in TRAINER_REGISTRY, value
