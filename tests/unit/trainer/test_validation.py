"""When a training is validated, what is remembered of it over a kill, and which weights are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from configs.schema import Hardware
from tests.helpers.validations import validated
from trainer import run as run_module
from trainer.job import TrainingJob
from trainer.run import MetricsTail, train
from trainer.validation import (
    BEST,
    FILE,
    Score,
    Validated,
    Validation,
    ValidationTail,
    best,
    due_steps,
    forget_after,
    is_complete,
    keep_best,
    last_step,
    read_validations,
    remember,
    stopped_at,
)


def asked(folder: Path, **changed) -> Validation:
    given = {"every": 2, "samples": 2, "seed": 0, "rollouts": 24, **changed}
    return Validation(prompts=folder / "validation.parquet", **given)


def job(folder: Path, validation: Validation | None = None) -> TrainingJob:
    """Four steps of two rollouts each."""
    return TrainingJob(
        name="merge", model_path="student", train_file=folder / "train.parquet", folder=folder, steps=4,
        prompts_per_step=2, samples_per_prompt=1, learning_rate=1e-4, max_prompt_tokens=8,
        max_response_tokens=8, save_every=2, seed=0, hardware=Hardware(device="cpu"),
        reward_function=("teachers.rewards", "compute_score"), validation=validation,
    )  # fmt: skip


def validating_job(folder: Path, **changed) -> TrainingJob:
    return job(folder, asked(folder, **changed))


def checkpoint(folder: Path, step: int) -> None:
    """As verl leaves it: the newest two are kept."""
    place = folder / "checkpoints" / f"global_step_{step}" / "actor"
    place.mkdir(parents=True)
    (place / "model_world_size_1_rank_0.pt").write_text(f"weights {step}")
    (place / "optim_world_size_1_rank_0.pt").write_text("moments")
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(step))


@pytest.mark.parametrize(
    "every, steps, expected", [(2, 6, [0, 2, 4, 6]), (4, 6, [0, 4, 6]), (6, 6, [0, 6]), (1, 2, [0, 1, 2])]
)
def test_it_is_due_before_the_first_step_every_so_many_and_at_the_end(every, steps, expected):
    assert due_steps(every, steps) == expected
    one = asked(Path(), every=every)
    assert [step for step in range(steps + 1) if one.is_due(step, steps)] == expected


def test_domains_weigh_the_same_and_so_do_decodings():
    one = {"math": {"greedy": Score(0.5, 4, 4, 9, 1), "sampled": Score(0.25, 4, 400, 9, 1)},
           "code": {"greedy": Score(1.0, 1, 1, 9, 1), "sampled": Score(0.0, 1, 100, 9, 1)}}  # fmt: skip
    assert Validated(2, 1.0, one).accuracy == pytest.approx((0.375 + 0.5) / 2)


def test_the_best_is_the_most_accurate_and_of_equal_ones_the_earlier():
    done = [validated(0, 0.1), validated(2, 0.5), validated(4, 0.5), validated(6, 0.25, 0.5)]
    found = best(done)
    assert found is not None and found.step == 2
    assert best([]) is None


@pytest.mark.parametrize(
    "accuracies, patience, expected",
    [
        ([0.1, 0.2, 0.3], 1, None),
        ([0.1, 0.1], 1, 2),
        ([0.5, 0.4, 0.45, 0.6], 2, 4),
        ([0.5, 0.4, 0.6, 0.5, 0.5], 2, 8),
        ([0.5, 0.4, 0.3], None, None),
        ([0.5, 0.4, 0.3], 3, None),
    ],
)
def test_patience_counts_validations_in_a_row_without_a_new_best(accuracies, patience, expected):
    done = [validated(2 * place, accuracy) for place, accuracy in enumerate(accuracies)]
    assert stopped_at(done, patience) == expected


def test_a_line_of_metrics_has_every_accuracy_with_its_n():
    found = validated(2, 0.5, 0.25).metrics()
    assert found["validation/accuracy"] == 0.375 and found["validation/seconds"] == 1.5
    assert found["validation/math/greedy"] == 0.5 and found["validation/math/greedy/n"] == 4
    assert found["validation/code/sampled"] == 0.25 and found["validation/code/sampled/answers"] == 8
    assert found["validation/code/sampled/finish_rate"] == 0.5
    assert "n = 4 prompts, 2 answers each" in validated(2, 0.5).text()


# ------------------------------------------------------------------------------------------- resumed


def test_validations_are_read_as_they_were_remembered_without_an_unfinished_line(tmp_path):
    remember(tmp_path, validated(0, 0.5))
    remember(tmp_path, validated(2, 0.25))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "sec')
    assert read_validations(tmp_path) == [validated(0, 0.5), validated(2, 0.25)]
    forget_after(tmp_path, 2)
    remember(tmp_path, validated(4, 0.75))
    assert [one.step for one in read_validations(tmp_path)] == [0, 2, 4]


def test_those_of_weights_that_are_gone_are_forgotten(tmp_path):
    for step in (0, 2, 4):
        remember(tmp_path, validated(step, 0.5))
    forget_after(tmp_path, 2)
    assert [one.step for one in read_validations(tmp_path)] == [0, 2]
    forget_after(tmp_path / "nothing", 0)


def test_a_job_is_complete_with_its_last_validation_or_where_its_patience_ended(tmp_path):
    one = validating_job(tmp_path, patience=1)
    assert not is_complete(one, 4), "the last validation is missing"
    remember(tmp_path, validated(0, 0.5))
    remember(tmp_path, validated(2, 0.6))
    assert last_step(one) == 4 and not is_complete(one, 2)
    remember(tmp_path, validated(4, 0.7))
    assert is_complete(one, 4) and not is_complete(one, 3)
    plain = job(tmp_path)
    assert is_complete(plain, 4) and not is_complete(plain, 2)


def test_a_training_whose_patience_ended_is_not_begun_again(tmp_path, monkeypatch):
    one = validating_job(tmp_path, patience=1)
    checkpoint(tmp_path, 2)
    remember(tmp_path, validated(0, 0.5))
    remember(tmp_path, validated(2, 0.5))
    monkeypatch.setattr(run_module, "launch", lambda config: pytest.fail("it is complete"))
    assert last_step(one) == 2
    train(one, cluster=None)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------- weights kept


def kept(folder: Path) -> dict[str, str]:
    files = sorted((folder / BEST).rglob("*.pt")) if (folder / BEST).exists() else []
    return {str(file.relative_to(folder / BEST)): file.read_text() for file in files}


def weights_of_step(step: int) -> dict[str, str]:
    return {f"global_step_{step}/actor/model_world_size_1_rank_0.pt": f"weights {step}"}


def test_the_best_weights_outlive_their_checkpoint(tmp_path):
    for step, accuracy in ((2, 0.5), (4, 0.25), (6, 0.5), (8, 0.75)):
        checkpoint(tmp_path, step)
        remember(tmp_path, validated(step, accuracy))
        keep_best(tmp_path, tmp_path / "checkpoints")
        assert kept(tmp_path) == weights_of_step(8 if step == 8 else 2)
        shutil.rmtree(tmp_path / "checkpoints" / f"global_step_{step - 4}", ignore_errors=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_it_is_kept_at_the_next_attempt_if_the_process_ended_in_between(tmp_path, monkeypatch):
    one = validating_job(tmp_path, keep_best=True)
    checkpoint(tmp_path, 2)
    remember(tmp_path, validated(2, 0.5))
    run_module.recover_validations(one)
    assert kept(tmp_path) == weights_of_step(2)


def test_nothing_is_kept_of_the_start_or_without_being_asked(tmp_path):
    checkpoint(tmp_path, 2)
    remember(tmp_path, validated(0, 0.5))
    remember(tmp_path, validated(2, 0.5))
    keep_best(tmp_path, tmp_path / "checkpoints")
    run_module.recover_validations(validating_job(tmp_path))
    assert kept(tmp_path) == {}


def test_where_links_are_not_possible_weights_are_copied(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr("os.link", no_links)
    checkpoint(tmp_path, 2)
    remember(tmp_path, validated(2, 0.5))
    keep_best(tmp_path, tmp_path / "checkpoints")
    assert kept(tmp_path) == weights_of_step(2)


# --------------------------------------------------------------------------------------- while it trains


def test_new_validations_are_told_once_and_are_signs_of_life(tmp_path):
    one, told = validating_job(tmp_path), []
    remember(tmp_path, validated(0, 0.5))  # of an earlier attempt
    source = tmp_path / "verl.jsonl"
    tail = MetricsTail(source, one, lambda step, raw: None, ValidationTail(one, told.append))
    tail.read()
    assert told == [] and tail.signs == 0
    source.write_text("".join(json.dumps({"step": step, "data": {}}) + "\n" for step in (1, 2)))
    remember(tmp_path, validated(2, 0.25))
    tail.read()
    tail.read()
    assert [found.step for found in told] == [2] and tail.signs == 3


def test_a_stall_is_called_later_while_a_validation_is_under_way(tmp_path):
    one = validating_job(tmp_path)
    tail = ValidationTail(one, lambda found: None)
    # 2 rollouts a step, 24 answers a validation
    assert [tail.patience_factor(step) for step in (0, 1, 2)] == [13.0, 1.0, 13.0]
    remember(tmp_path, validated(2, 0.5))
    assert tail.patience_factor(2) == 1.0
    assert ValidationTail(job(tmp_path), lambda found: None).patience_factor(0) == 1.0
