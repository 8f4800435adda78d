"""verl's trainers, one step ahead: the next step's answers are sampled while this step's update runs.

verl's own asynchronous trainers keep a stream of rollouts in flight. When weights are sent they interrupt
it, so that one answer may be written by several models; rows are trained in the order in which they end, and
a checkpoint takes half-finished rollouts along. Here whole steps overlap instead:

    engines      | sample 1 | sample 2 | sample 3 | sample 4
    by weights     0          0          1          2
    trainer                 | update 1 | update 2 | update 3

A step's rollouts have all ended before the engines get new weights. So every answer is written by one model,
and every step trains on the rows that it would train on without overlap. The weights that wrote them are one
update older than those that are updated; in the first step of an attempt they are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from verl.checkpoint_engine import CheckpointEngineManager
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager

from trainer.overlap import SEPARATE_MODE, SHARED_DEVICES_MODE
from trainer.within.own_mode import OwnMode


class Rows:
    """verl's reader of the training rows, whose stored state forgets the rows that were read ahead.

    So a training that goes on from a checkpoint reads them, and has them sampled, again.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.before: Any = None
        """State of before the rows that were read ahead; None where there are none."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    @property
    def are_ahead(self) -> bool:
        """Whether the next step's rows are read."""
        return self.before is not None

    def read_ahead(self) -> None:
        """What is read from now on belongs to the next step."""
        self.before = deepcopy(self.loader.state_dict())

    def begin_step(self) -> None:
        """What was read ahead belongs to the step that begins."""
        self.before = None

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint of the current step."""
        return self.before if self.are_ahead else self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on behind the rows of a checkpoint's step."""
        self.loader.load_state_dict(state)


class ReadAhead(OwnMode):
    """Hands out the rows of the next step as soon as the rollouts of this one have ended."""

    train_dataloader: Rows

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self.train_dataloader = Rows(self.train_dataloader)

    def prepare_step(self) -> dict:
        """Only the first step of an attempt waits for rollouts that were not begun before."""
        self.engines_are_current = not self.train_dataloader.are_ahead
        if self.engines_are_current:
            self._add_batch_to_generate()
        self.train_dataloader.begin_step()
        return {}

    def on_sample_end(self) -> None:
        """All rollouts have ended: the engines get the trainer's weights and begin with the next step's rows,
        before the trainer has begun with this one's."""
        if self.curr_step_profile:
            self._stop_rollout_profiling()
        before, is_last = self.global_steps - 1, self.global_steps >= self.total_training_steps
        if is_last and not self.wants_validation(before):
            return
        if not self.engines_are_current:
            with marked_timer("update_weights", self.timing_raw, color="red"):
                self.send_weights(before)
        self.validate(before, ("step", "gen"))
        if not is_last:
            self.train_dataloader.read_ahead()
            self._add_batch_to_generate()

    def on_step_end(self) -> None:
        """The engines are sampling: they get the weights when they are done."""
        self.save_for_validation()

    @property
    def engines_are_free(self) -> bool:
        """As the first step of an attempt begins; later ones wait for the rollouts that are under way."""
        return not self.train_dataloader.are_ahead

    def give_engines_last_weights(self) -> None:
        """After the last step, in which nothing was sampled ahead."""
        self.send_weights(self.total_training_steps)

    def send_weights(self, step: int) -> None:
        """Gives the engines the trainer's weights, which are those after update number `step`."""
        raise NotImplementedError


@register_trainer(SHARED_DEVICES_MODE)
class SharedDevices(ReadAhead, PPOTrainerSync):
    """Engines and trainer on the same devices, both awake: for CPUs, which share their cores at any time."""

    checkpoint_manager: Any

    def send_weights(self, step: int) -> None:
        self.checkpoint_manager.update_weights(step)


class WeightsForIdleEngines(CheckpointEngineManager):
    """verl's exchange of weights, which need interrupt nothing: all rollouts have ended."""

    async def abort_replicas(self, reject_request: bool = False) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """No request is in flight."""

    async def resume_generation_replicas(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """None was paused."""


@register_trainer(SEPARATE_MODE)
class SeparateDevices(ReadAhead):
    """Engines on devices of their own, which get the weights by verl's checkpoint engine.

    Built from the parts of verl's `PPOTrainerSeparateAsync`. That one fails where the trainer's devices have
    no engines (`logger.info(..., flush=True)`), and copies the weights to main memory at every step.
    """

    _enable_hybrid_replicas = False
    """Read by verl: no engines on the trainer's devices."""

    def _setup(self) -> None:
        super()._setup()
        self.standalone_server_manager: Any = LLMServerManager.create(config=self.config)
        self.weights: Any = WeightsForIdleEngines(
            config=omega_conf_to_dataclass(self.config.actor_rollout_ref.rollout.checkpoint_engine),
            actor_wg=self.actor_rollout_wg,
            replicas=self.standalone_server_manager.get_replicas(),
        )

    def on_init_end(self) -> None:
        self.send_weights(self.global_steps)

    def send_weights(self, step: int) -> None:
        self.weights.update_weights(step)

    def get_llm_client(self) -> LLMServerClient:
        return self.standalone_server_manager.get_client()

    def _rollout_server_managers(self) -> list:
        return [self.standalone_server_manager]

    def _get_n_gpus_for_throughput(self) -> int:
        rollout = self.config.actor_rollout_ref.rollout
        return super()._get_n_gpus_for_throughput() + rollout.n_gpus_per_node * rollout.nnodes
