"""The loss and its metrics where the batch is spread over data-parallel ranks, as verl puts them together."""

import math
from types import SimpleNamespace

import pytest
import torch

from merging.training.metrics import step_metrics
from routing.trained_rows import trained_rows
from tests.helpers.loss_batches import EOS, TEACHERS, actor_config, micro_batch, over_ranks, rollouts

pytestmark = pytest.mark.filterwarnings("ignore")

SCALES = {"math": 1.25, "code": 0.5}


@pytest.fixture(scope="module")
def verl():
    """verl's distillation loss with ours, and its settings."""
    from verl.trainer.distillation import losses
    from verl.workers.config import DistillationLossConfig

    import merging.exopd.loss  # noqa: F401

    loss = DistillationLossConfig(
        loss_mode="exopd", use_policy_gradient=True, use_task_rewards=False, loss_max_clamp=None,
        log_prob_min_clamp=None,
    )  # fmt: skip
    settings = SimpleNamespace(distillation_loss=loss, teacher_models={"math": None, "code": None})
    return SimpleNamespace(losses=losses, settings=settings)


def rank_of(verl, rows, ranks, micro_batches=None):
    """What one rank returns: the sum of its losses, the gradient for each of its rows, and its metrics.

    `micro_batches` are index lists, by default all rows in one.
    """
    losses, gradients, found = [], {}, {}
    for indices in micro_batches or [list(range(len(rows)))]:
        data, output, leaves = micro_batch([rows[index] for index in indices], dp_size=ranks)
        loss, metrics = verl.losses.distillation_loss(actor_config(), verl.settings, output, data)
        for index, gradient in zip(indices, torch.autograd.grad(loss, leaves), strict=True):
            gradients[index] = gradient
        losses.append(loss.detach())
        for name, metric in metrics.items():
            if name.startswith("teacher/"):
                found.setdefault(name, metric.init_list()).extend(metric)
    return sum(losses), torch.cat([gradients[index] for index in range(len(rows))]), found


@pytest.fixture
def rows():
    return rollouts([SCALES[teacher] for teacher in TEACHERS])


@pytest.mark.parametrize("split", [([0], [1, 2]), ([1], [0, 2]), ([0], [1], [2])])
def test_sums_loss_and_gradient_are_those_of_one_rank(verl, rows, split):
    """In the second split one rank has no row of `math`, and the other none of `code`."""
    loss, gradient, metrics = rank_of(verl, rows, 1)
    alone = over_ranks([metrics])
    parts = [rank_of(verl, [rows[index] for index in indices], len(split)) for indices in split]
    assert over_ranks([part[2] for part in parts]) == pytest.approx(alone, rel=1e-6)
    # verl averages loss and gradient over the ranks
    torch.testing.assert_close(sum(part[0] for part in parts) / len(split), loss)
    by_row = {
        index: rows_gradient
        for indices, part in zip(split, parts, strict=True)
        for index, rows_gradient in zip(
            indices, part[1].split([len(rows[index].tokens) for index in indices]), strict=True
        )
    }
    torch.testing.assert_close(torch.cat([by_row[index] for index in range(3)]) / len(split), gradient)


def test_counts_are_whole_numbers_for_any_number_of_ranks_and_micro_batches(verl):
    """Three ranks with two micro-batches each: `math` has two rows on every rank, `code` one."""
    rows = rollouts([SCALES[teacher] for teacher in TEACHERS])
    parts = [rank_of(verl, rows, 3, [[0, 2], [1]])[2] for _ in range(3)]
    totals = over_ranks(parts)
    assert totals["teacher/math/sequences"] == 6 and totals["teacher/code/sequences"] == 3
    assert totals["teacher/math/tokens"] == 3 * (4 + 3) and totals["teacher/code/tokens"] == 3 * 2
    assert totals["teacher/math/finished"] == 3 and rows[0].tokens[-1] == EOS


def test_a_step_of_two_ranks_reads_like_that_of_one(verl, rows):
    alone = over_ranks([rank_of(verl, rows, 1)[2]])
    spread = over_ranks([rank_of(verl, rows[:1], 2)[2], rank_of(verl, rows[1:], 2)[2]])
    lines = [step_metrics(1, {f"actor/{k}": v for k, v in raw.items()}, SCALES) for raw in (alone, spread)]
    assert lines[1] == pytest.approx(lines[0], rel=1e-6)
    assert lines[1]["teacher/math/sequences"] == 2 and lines[1]["teacher/code/sequences"] == 1
    assert math.isclose(lines[1]["teacher/math/token_share"], 7 / 9)
    assert trained_rows(lines[1:], ["math", "code"], samples_per_prompt=1) == {"math": 2, "code": 1}
