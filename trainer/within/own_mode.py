"""What trainers of ours have in common in verl's trainer registry (`trainer.v1.trainer_mode`)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer

from trainer.validation import OWN_SYNC_MODE, Validation
from trainer.within.validator import Validator


class PatienceLost(Exception):
    """Ends the training early; verl's loop has no other way out."""


class OwnMode(PPOTrainer):
    """A trainer with a name of its own and verl's synchronous data handling, which verl asks for by name.

    Rows are read in whole steps, a checkpoint holds the reader's position and no rollouts, and no row is
    dropped or taken again. Where the job asks for validations (`protege.validation`), a step's weights are
    validated as the next step begins: its checkpoint and its line of metrics are written then. verl's own
    validation knows one decoding, repeats the first one at every resume, and is lost with a killed process.
    """

    validator: Validator | None = None

    @property
    def trainer_mode(self) -> str:
        """verl's name of the mode whose data handling is used."""
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, value: str) -> None:
        assert value in TRAINER_REGISTRY, value

    def fit(self, agent_loop_manager: Any) -> None:
        """The training, to its last step and its validation, or until the job's patience ends."""
        self.validator = self._validator(agent_loop_manager)
        self.seconds_validating: dict[str, float] = defaultdict(float)
        try:
            super().fit(agent_loop_manager)
        except PatienceLost:
            self._shutdown_dump_executor()
            return
        if self.wants_validation(self.total_training_steps):
            self.give_engines_last_weights()
            self.validate(self.total_training_steps)

    def _validator(self, manager: Any) -> Validator | None:
        settings = self.config.protege.get("validation")
        if settings is None:
            return None
        asked = Validation(**{**settings, "prompts": Path(settings.prompts)})
        checkpoints = Path(self.config.trainer.default_local_dir)
        return Validator(asked, checkpoints, self.total_training_steps, manager)

    def wants_validation(self, step: int) -> bool:
        """Whether the weights after this step are still to be validated."""
        return self.validator is not None and self.validator.wants(step)

    def validate(self, step: int, timers: tuple[str, ...] = ()) -> None:
        """Validates the engines' weights, which are those after this step, where that is still to be done.

        `timers` are verl's that run meanwhile. Raises PatienceLost.
        """
        if self.validator is None or not self.validator.wants(step):
            return
        found = self.validator.validate(step)
        for timer in timers:
            self.seconds_validating[timer] += found.seconds
        others = [name for name in self.config.trainer.logger if name != "file"]
        self.logger.log(data=found.metrics(), step=step, backend=others)
        if step < self.total_training_steps and self.validator.has_lost_patience:
            raise PatienceLost

    @property
    def engines_are_free(self) -> bool:
        """Whether the engines have the last update's weights, and no answer to write, as a step begins."""
        return True

    def give_engines_last_weights(self) -> None:
        """After the last step; verl has done so."""

    def on_step_begin(self) -> None:
        """The step before it is complete."""
        super().on_step_begin()
        if self.engines_are_free:
            self.validate(self.global_steps - 1, ("step",))

    def on_step_end(self) -> None:
        """What is to be validated is in a checkpoint first."""
        self.save_for_validation()
        super().on_step_end()  # pyright: ignore[reportAbstractUsage] -- the mode's own comes after this class

    def save_for_validation(self) -> None:
        """A checkpoint of this step, if it is validated and verl has made none."""
        step = self.global_steps
        if not self.wants_validation(step) or step >= self.total_training_steps:
            return
        if step % self.config.trainer.save_freq:
            with marked_timer("save_checkpoint", self.timing_raw, color="green"):
                self._save_checkpoint()

    def _compute_metrics(
        self, batch: Any, metrics: Any, timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        """verl's, of the step without the validation that it began with."""
        for timer, seconds in self.seconds_validating.items():
            timing_raw[timer] -= seconds
        self.seconds_validating.clear()
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)


@register_trainer(OWN_SYNC_MODE)
class OwnSync(OwnMode, PPOTrainerSync):
    """verl's synchronous trainer with nothing but validations."""
