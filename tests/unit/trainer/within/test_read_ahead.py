"""The trainer whose rollouts are one step ahead: which rows, by which weights, and what a checkpoint says."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, SIZE = 6, 3
ROWS = list(range(STEPS * SIZE))


def batches() -> StatefulDataLoader:
    """verl's reader: whole steps, in order, no worker."""
    rows: Any = ROWS
    return StatefulDataLoader(rows, batch_size=SIZE, num_workers=0, drop_last=True, collate_fn=list)


@pytest.fixture(scope="module")
def module():
    from trainer.within import read_ahead

    return read_ahead


class Recorder:
    """A trainer whose engines and updates are stood in for."""

    def __init__(self, module, state: dict | None = None, done: int = 0) -> None:
        self.waiting: list[tuple[list[int], int]] = []
        """Rows that are handed out and not trained on, each step's with the weights that sample them."""
        self.updates: list[tuple[int, list[int], int]] = []
        """Step, rows and staleness of every update."""
        self.checkpoints: dict[int, dict] = {}
        self.engine_weights = done
        recorder = self

        class Stand(module.ReadAhead):
            def __init__(self) -> None:
                self.train_dataloader = module.Rows(batches())
                self.train_dataloader_it = None
                self.global_steps, self.total_training_steps = done + 1, STEPS
                self.curr_step_profile, self.timing_raw = False, {}

            def _add_batch_to_generate(self) -> None:
                if self.train_dataloader_it is None:
                    self.train_dataloader_it = iter(self.train_dataloader)
                recorder.waiting.append((next(self.train_dataloader_it), recorder.engine_weights))

            def send_weights(self, step: int) -> None:
                recorder.engine_weights = step

        self.trainer = Stand()
        if state is not None:
            self.trainer.train_dataloader.load_state_dict(state)

    def step(self) -> None:
        """One step as verl's `fit` and `step` make it."""
        trainer, step = self.trainer, self.trainer.global_steps
        trainer.prepare_step()
        rows, weights = self.waiting.pop(0)
        trainer.on_sample_end()
        self.updates.append((step, rows, step - 1 - weights))
        self.checkpoints[step] = trainer.train_dataloader.state_dict()
        trainer.on_step_end()
        trainer.global_steps += 1


def own(step: int) -> list[int]:
    return ROWS[(step - 1) * SIZE : step * SIZE]


def test_every_step_trains_its_own_rows_one_update_old(module):
    run = Recorder(module)
    for _ in range(STEPS):
        run.step()
    assert run.updates == [(step, own(step), min(step - 1, 1)) for step in range(1, STEPS + 1)]
    assert run.waiting == []  # the last step reads no further


def test_the_next_rows_are_handed_out_before_the_update(module):
    run = Recorder(module)
    run.trainer.prepare_step()
    run.waiting.clear()
    run.trainer.on_sample_end()
    assert run.waiting == [(own(2), 0)]


@pytest.mark.parametrize("last", range(1, STEPS))
def test_a_resumed_run_samples_again_what_was_ahead_and_trains_each_row_once(module, last):
    run = Recorder(module)
    for _ in range(last):
        run.step()
    assert run.waiting == [(own(last + 1), last - 1)]  # lost with the process

    resumed = Recorder(module, run.checkpoints[last], done=last)
    for _ in range(last, STEPS):
        resumed.step()
    trained = [row for _, rows, _ in run.updates + resumed.updates for row in rows]
    assert trained == ROWS
    assert [stale for _, _, stale in resumed.updates] == [0] + [1] * (STEPS - last - 1)


def test_a_state_that_was_stored_is_not_moved_by_later_reading(module):
    run = Recorder(module)
    run.step()
    kept = run.checkpoints[1]
    for _ in range(3):
        run.step()
    again = Recorder(module, kept, done=1)
    again.step()
    assert again.updates[0][:2] == (2, own(2))


def test_verl_handles_the_data_as_in_its_synchronous_mode(module):
    from verl.trainer.ppo.v1 import get_trainer_cls

    for name in ("one_step", "one_step_separate"):
        trainer = get_trainer_cls(name)
        assert issubclass(trainer, module.ReadAhead)
        stand = trainer.__new__(trainer)
        stand.trainer_mode = name
        assert stand.trainer_mode == "sync"


@pytest.mark.parametrize("last", [0, 2])
def test_each_validation_is_of_its_own_steps_weights_and_disturbs_no_rows(module, last):
    """Every two steps and at the end, also of a run that goes on after step 2."""
    run = Recorder(module, None, done=0)
    for _ in range(last):
        run.step()
    if last:
        run = Recorder(module, run.checkpoints[last], done=last)
    validated = []

    class Validator:
        has_lost_patience = False

        def wants(self, step: int) -> bool:
            return step % 2 == 0 and step not in [done for done, _ in validated]

        def validate(self, step: int) -> Any:
            validated.append((step, run.engine_weights))
            return SimpleNamespace(seconds=1.0, metrics=dict)

    trainer = run.trainer
    trainer.validator = Validator()
    trainer.seconds_validating = defaultdict(float)
    trainer.config = SimpleNamespace(trainer=SimpleNamespace(logger=["file"], save_freq=1))
    trainer.logger = SimpleNamespace(log=lambda **_: None)
    for _ in range(last, STEPS):
        trainer.on_step_begin()
        run.step()
    trainer.give_engines_last_weights()
    trainer.validate(STEPS)
    assert validated == [(step, step) for step in range(last, STEPS + 1, 2)]
    assert [rows for _, rows, _ in run.updates] == [own(step) for step in range(last + 1, STEPS + 1)]
