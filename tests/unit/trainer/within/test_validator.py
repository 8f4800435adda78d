"""Validations where the training runs: what is asked, how it is counted, and when verl's steps make one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("verl.trainer.ppo.v1.agent_loop_tq")

from omegaconf import OmegaConf

from trainer.validation import BEST, Validation, read_validations
from trainer.within import own_mode
from trainer.within.agent_loop import Answered
from trainer.within.own_mode import OwnMode
from trainer.within.validator import Validator

DOMAINS = ("math", "math", "code")


class Manager:
    """Answers as the weights of a step: greedily right from step 2 on, sampled ones by their number."""

    def __init__(self) -> None:
        self.asked = []
        self.right = False

    def answer(self, asked):
        self.asked.append(asked)
        return [
            Answered(float(self.right or one["sampling"].get("seed", 1) % 2 == 0), 4, True) for one in asked
        ]


@pytest.fixture
def folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"data_source": name, "prompt": [{"role": "user", "content": str(n)}]}
        for n, name in enumerate(DOMAINS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "validation.parquet")
    return tmp_path


def asked_in(folder, **changed) -> Validation:
    given = {"every": 2, "samples": 2, "seed": 0, "rollouts": 9, **changed}
    return Validation(prompts=folder / "validation.parquet", **given)


def validator(folder, manager=None, steps=4, **changed) -> Validator:
    return Validator(asked_in(folder, **changed), folder / "checkpoints", steps, manager or Manager())


def test_every_prompt_is_answered_greedily_once_and_sampled_some_times(folder):
    manager = Manager()
    found = validator(folder, manager).validate(0)
    (asked,) = manager.asked
    greedy = [one for one in asked if one["sampling"] == {"temperature": 0.0}]
    assert [one["row"]["prompt"][0]["content"] for one in greedy] == ["0", "1", "2"]
    sampled = [one["sampling"] for one in asked if one not in greedy]
    assert sampled == [{"temperature": 1.0, "seed": seed} for seed in range(6)]
    counts = {d: {k: (s.n, s.answers) for k, s in own.items()} for d, own in found.scores.items()}
    assert counts == {
        "math": {"greedy": (2, 2), "sampled": (2, 4)},
        "code": {"greedy": (1, 1), "sampled": (1, 2)},
    }
    assert found.scores["math"]["greedy"].accuracy == 0.0
    assert found.scores["math"]["sampled"].accuracy == 0.5 and found.scores["math"]["sampled"].length == 4
    assert read_validations(folder) == [found]


def test_random_numbers_are_the_same_at_every_validation_and_others_by_another_seed(folder):
    manager, other = Manager(), Manager()
    one = validator(folder, manager)
    one.validate(0)
    one.validate(2)
    validator(folder, other, seed=100).validate(4)
    assert manager.asked[0] == manager.asked[1] != other.asked[0]


def test_what_an_earlier_attempt_has_validated_is_not_done_again(folder):
    validator(folder).validate(0)
    again = validator(folder)
    assert [step for step in range(5) if again.wants(step)] == [2, 4]


# ------------------------------------------------------------------------------------- in verl's steps


class Verl:
    """verl's loop, of which every step is noted in `done`."""

    def fit(self, agent_loop_manager):
        for _ in range(self.global_steps, self.total_training_steps):
            self.global_steps += 1
            self.timing_raw = {"step": 10.0}
            self.on_step_begin()
            self.done.append(f"train {self.global_steps}")
            if self.global_steps == self.total_training_steps or self.global_steps % 3 == 0:
                self._save_checkpoint()
            self.on_step_end()
            self._compute_metrics(None, {}, self.timing_raw, self.global_steps, 0)
        self.global_steps += 1

    def on_step_begin(self):
        pass

    def on_step_end(self):
        self.done.append(f"sync {self.global_steps}")

    def _save_checkpoint(self):
        self.done.append(f"save {self.global_steps}")
        place = self.folder / "checkpoints" / f"global_step_{self.global_steps}" / "actor"
        place.mkdir(parents=True, exist_ok=True)
        (place / "model_world_size_1_rank_0.pt").write_text(str(self.global_steps))
        self.manager.right = self.global_steps == self.right_after

    def _compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        self.seconds.append(timing_raw["step"])

    def _shutdown_dump_executor(self):
        self.done.append("shut down")


class Stand(OwnMode, Verl):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Our trainer on that loop."""

    def __init__(self, folder, asked, done_steps=0, manager=None, right_after=None):
        self.right_after = right_after
        self.folder, self.global_steps, self.total_training_steps = folder, done_steps, 5
        self.done, self.seconds, self.logged, self.manager = [], [], [], manager or Manager()
        self.config = OmegaConf.create(
            {
                "trainer": {
                    "default_local_dir": str(folder / "checkpoints"),
                    "save_freq": 3,
                    "logger": ["file", "tensorboard"],
                },
                "protege": {"validation": asked.to_json()} if asked else {},
            }
        )
        self.logger = SimpleNamespace(log=lambda **given: self.logged.append(given))


@pytest.fixture
def stand(folder, monkeypatch):
    """Makes a trainer whose methods of verl's are those above."""
    for name in ("fit", "on_step_begin", "_save_checkpoint", "_compute_metrics", "_shutdown_dump_executor"):
        monkeypatch.setattr(own_mode.PPOTrainer, name, getattr(Verl, name))
    monkeypatch.setattr(own_mode.PPOTrainer, "on_step_end", Verl.on_step_end)
    monkeypatch.setattr(Stand, "__abstractmethods__", frozenset())

    def made(asked=None, **given):
        trainer = Stand(folder, asked, **given)
        validate = Validator.validate

        def noted(self, step):
            trainer.done.append(f"validate {step}")
            return validate(self, step)

        monkeypatch.setattr(Validator, "validate", noted)
        return trainer

    return made


def test_a_step_is_validated_from_a_checkpoint_once_its_metrics_are_written(stand, folder):
    trainer = stand(asked_in(folder))
    trainer.fit(trainer.manager)
    assert trainer.done == [
        "validate 0", "train 1", "sync 1", "train 2", "save 2", "sync 2",
        "validate 2", "train 3", "save 3", "sync 3", "train 4", "save 4", "sync 4",
        "validate 4", "train 5", "save 5", "sync 5", "validate 5",
    ]  # fmt: skip
    assert [(given["step"], given["backend"]) for given in trainer.logged] == [
        (step, ["tensorboard"]) for step in (0, 2, 4, 5)
    ]
    assert trainer.logged[0]["data"]["validation/math/greedy/n"] == 2
    assert all(seconds < 10 for seconds in trainer.seconds[::2]) and trainer.seconds[1] == 10


def test_without_validations_nothing_is_added(stand):
    trainer = stand()
    trainer.fit(trainer.manager)
    assert [what for what in trainer.done if what.startswith(("validate", "save"))] == ["save 3", "save 5"]


def test_a_killed_validation_is_made_up_for_and_none_is_made_twice(stand, folder):
    first = stand(asked_in(folder))

    def killed(asked):
        raise KeyboardInterrupt

    answer = first.manager.answer
    first.manager.answer = lambda asked: answer(asked) if len(first.manager.asked) < 1 else killed(asked)
    with pytest.raises(KeyboardInterrupt):
        first.fit(first.manager)
    assert first.done[-1] == "validate 2" and [one.step for one in read_validations(folder)] == [0]
    second = stand(asked_in(folder), done_steps=2)
    second.fit(second.manager)
    assert [what for what in second.done if what.startswith("validate")] == [
        "validate 2", "validate 4", "validate 5",
    ]  # fmt: skip
    third = stand(asked_in(folder), done_steps=5)
    third.fit(third.manager)
    assert third.done == []


def test_the_last_validation_is_made_although_no_step_is_left(stand, folder):
    trainer = stand(asked_in(folder), done_steps=5)
    trainer.fit(trainer.manager)
    assert trainer.done == ["validate 5"]


def test_lost_patience_ends_the_training_after_its_validation(stand, folder):
    trainer = stand(asked_in(folder, patience=1))
    trainer.fit(trainer.manager)
    assert trainer.done[-3:] == ["sync 2", "validate 2", "shut down"]
    assert [one.step for one in read_validations(folder)] == [0, 2]


def test_the_best_weights_are_kept_as_it_goes(stand, folder):
    trainer = stand(asked_in(folder, keep_best=True), right_after=4)
    trainer.fit(trainer.manager)
    (kept,) = (folder / BEST).rglob("*.pt")
    assert kept.relative_to(folder / BEST).parts[0] == "global_step_4" and kept.read_text() == "4"
    assert json.loads((folder / "validation.jsonl").read_text().splitlines()[2])["step"] == 4
