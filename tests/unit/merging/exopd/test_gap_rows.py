"""verl's own data loader over rows whose order is decided while it reads them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl.utils.dataset.rl_dataset")

import pyarrow.parquet as pq
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

from merging.exopd.gap.rows import GapRows
from merging.exopd.gap.shares import Reading, planned_rows, write_read_rows
from merging.exopd.job import merge_job
from merging.exopd.lambda_schedule import LambdaSchedule
from routing.dataset import write_parquet
from routing.gap import GapBudget
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt
from tests.helpers.merge_jobs import PROMPTS, TEACHERS, config_with
from tests.helpers.validations import validated
from trainer.overrides import verl_config
from trainer.validation import forget_after, read_validations, remember
from trainer.within.own_mode import OwnMode
from trainer.within.read_ahead import ReadAhead, Rows

FOUND = {0: (0.8, 0.4), 2: (0.4, 0.8)}


@pytest.fixture
def config():
    validation = {f"domains.{name}.validation": PROMPTS for name in TEACHERS}
    pairs = [item for pair in validation.items() for item in pair]
    recipe = {"steps": 4, "prompts_per_step": 8, "validate_every": 2, "max_prompt_tokens": 72}
    recipe |= {"max_response_tokens": 48, "seed": 3}
    warmed = {"reward_scale": 3.0, "reward_scale_warmup_steps": 2}
    return config_with("training", recipe, "mixing", "gap", "objective", warmed, *pairs)


@pytest.fixture
def reading(config, tmp_path):
    budget = GapBudget.of(config)
    assert budget is not None
    return Reading(budget, 3, LambdaSchedule.of(config), tmp_path)


@pytest.fixture
def pool(tmp_path) -> Path:
    rows = [
        RoutedPrompt(
            Prompt(f"{name}{n}", ({"role": "user", "content": f"{name} {n}"},), "a", name, "f", n),
            name,
            "test",
        )
        for name, count in (("math", 5), ("code", 3))
        for n in range(count)
    ]
    rewards = dict.fromkeys(TEACHERS, "exact")
    return write_parquet(rows, tmp_path / "pool.parquet", rewards, [3.0] * len(rows))


@pytest.fixture
def loader(config, reading, pool, tmp_path):
    """Makes verl's loader of the training rows as verl's trainer does, from the job's own configuration."""

    def loader(late: int = 0) -> StatefulDataLoader:
        read = replace(reading, budget=replace(reading.budget, late=late))
        job = merge_job(config, "merge", TEACHERS, pool, tmp_path, gap=read.to_json())
        data = verl_config(job, "metrics").data
        dataset = create_rl_dataset(data.train_files, data, None, None)
        assert isinstance(dataset, GapRows)
        return StatefulDataLoader(
            dataset=dataset, batch_size=data.train_batch_size, num_workers=data.dataloader_num_workers,
            drop_last=True, collate_fn=collate_fn, sampler=create_rl_sampler(data, dataset),
        )  # fmt: skip

    return loader


def told(batch) -> list[tuple[str, str, float, int]]:
    """Teacher, prompt, lambda and index of each row of a step."""
    return [
        (teacher, prompt[0]["content"], scale, extra["index"])
        for teacher, prompt, scale, extra in zip(
            batch["teacher"], batch["raw_prompt"], batch["reward_scale"], batch["extra_info"], strict=True
        )
    ]


def steps_read(loader, folder, first: int = 1) -> list:
    """All steps from the first on; the validation before each is remembered as late as a training does."""
    batches, rows = [], iter(loader)
    for step in range(first, 5):
        if step - 1 in FOUND and (step > first or step == 1):
            remember(folder, validated(step - 1, *FOUND[step - 1]))
        batches.append(next(rows))
    assert next(rows, None) is None
    return batches


def test_verls_loader_reads_each_step_by_the_validation_before_it(loader, config, reading, pool, tmp_path):
    loaded = loader()
    assert len(loaded) == 4, "as many whole steps as the training has"
    batches = steps_read(loaded, tmp_path)
    assert [[name for name, *_ in told(batch)].count("math") for batch in batches] == [2, 2, 6, 6]
    write_read_rows(reading, pool, 32, tmp_path / "rows.parquet")
    written = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row for batch in batches for row in told(batch)] == [
        (row["teacher"], row["prompt"][0]["content"], row["reward_scale"], row["extra_info"]["index"])
        for row in written
    ]
    assert [told(batch)[0][2] for batch in batches] == [1.0, 2.0, 3.0, 3.0]
    assert [int(index) for batch in batches for index in batch["index"]] == list(range(32))
    assert planned_rows(config, tmp_path) == {"math": 16, "code": 16}


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_loader_goes_on_from_a_checkpoint_with_the_rows_that_come_next(loader, tmp_path, done):
    """As verl does: the state of the loader that was killed, in a new process."""
    killed, rows = loader(), []
    batches = iter(killed)
    for step in range(1, done + 1):
        if step - 1 in FOUND:
            remember(tmp_path, validated(step - 1, *FOUND[step - 1]))
        rows.append(told(next(batches)))
    state = killed.state_dict()
    if done == 2:  # the next attempt makes up for the validation that the first was killed in
        remember(tmp_path, validated(2, *FOUND[2]))
    again = loader()
    again.load_state_dict(state)
    rows += [told(batch) for batch in steps_read(again, tmp_path, done + 1)]
    (tmp_path / "validation.jsonl").unlink()
    assert rows == [told(batch) for batch in steps_read(loader(), tmp_path)]


def test_no_row_is_read_before_its_validation_is_done(loader, tmp_path):
    remember(tmp_path, validated(0, *FOUND[0]))
    batches = iter(loader())
    next(batches), next(batches)
    with pytest.raises(AssertionError, match="before the validation after step 2"):
        next(batches)


def test_verl_reads_one_row_for_the_validation_that_it_never_makes(config, reading, pool, tmp_path):
    job = merge_job(config, "merge", TEACHERS, pool, tmp_path, gap=reading.to_json())
    data = verl_config(job, "metrics").data
    create_rl_dataset(data.val_files, data, None, None, is_train=False, max_samples=data.val_max_samples)


def test_other_mixings_are_read_by_verls_own_dataset(config, pool, tmp_path):
    data = verl_config(merge_job(config, "merge", TEACHERS, pool, tmp_path), "metrics").data
    assert data.custom_cls.path is None and "gap" not in data


# ------------------------------------------------------------------------- in the loops of our trainers


class Validator:
    """Remembers what each validation found, once."""

    has_lost_patience = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wants(self, step: int) -> bool:
        return step in FOUND and all(one.step != step for one in read_validations(self.folder))

    def validate(self, step: int) -> SimpleNamespace:
        remember(self.folder, validated(step, *FOUND[step]))
        return SimpleNamespace(seconds=1.0, metrics=dict)


def trained(mode, loader, folder: Path, done: int = 0, state: dict | None = None, last: int = 4):
    """(rows of each step, state of each step's checkpoint) of verl's loop after `done` steps; engines and
    updates are left out."""
    waiting, rows, states = [], [], []

    class Stand(mode):
        def __init__(self) -> None:
            self.train_dataloader = Rows(loader) if mode is ReadAhead else loader
            self.train_dataloader_it = None
            self.global_steps, self.total_training_steps = done + 1, 4
            self.curr_step_profile, self.timing_raw = False, {}
            self.validator, self.seconds_validating = Validator(folder), defaultdict(float)
            self.config = SimpleNamespace(trainer=SimpleNamespace(logger=["file"]))
            self.logger = SimpleNamespace(log=lambda **_: None)

        def _add_batch_to_generate(self) -> None:
            if self.train_dataloader_it is None:
                self.train_dataloader_it = iter(self.train_dataloader)
            waiting.append(told(next(self.train_dataloader_it)))

        def send_weights(self, step: int) -> None:
            pass

    Stand.__abstractmethods__ = frozenset()
    trainer = Stand()
    if state is not None:
        trainer.train_dataloader.load_state_dict(state)
    while trainer.global_steps <= last:
        trainer.on_step_begin()
        trainer.prepare_step()
        rows.append(waiting.pop(0))
        if mode is ReadAhead:
            trainer.on_sample_end()
        states.append(trainer.train_dataloader.state_dict())
        trainer.global_steps += 1
    return rows, states


@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize(("mode", "late"), [(OwnMode, 0), (ReadAhead, 1)])
def test_our_trainers_read_by_the_validations_that_the_plan_says(loader, tmp_path, mode, late, done):
    """Step by step, and one step ahead; killed after `done` steps, or not. An assertion in the reader would
    end the loop if a row were read before its validation."""
    whole, _ = trained(mode, loader(late), tmp_path)
    math = [[name for name, *_ in step].count("math") for step in whole]
    assert math == ([4, 2, 2, 6] if late else [2, 2, 6, 6])
    (tmp_path / "validation.jsonl").unlink()
    rows, states = trained(mode, loader(late), tmp_path, last=done)
    forget_after(tmp_path, done)
    rest, _ = trained(mode, loader(late), tmp_path, done, states[-1])
    assert rows + rest == whole
