"""Clip, gate and added reward in the loss as verl calls it, and the share of the gradient of each domain."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tensordict import NonTensorStack

from tests.helpers.loss_batches import (
    WEIGHTS,
    actor_config,
    jagged,
    micro_batch,
    response_part,
    rollouts,
)

pytestmark = pytest.mark.filterwarnings("ignore")

SCALES = [1.25, 0.5, 1.25]
REWARDS = [1.0, 0.0, 0.0]
TASK = [0.7, -0.3, -0.7]
"""verl's advantages of the three answers, equal at each token."""
WHOLE = {"seq-mean-token-mean": 3, "token-mean": 9, "seq-mean-token-sum": 3}
"""What verl divides by: sequences of the batch, or its tokens."""


@pytest.fixture(scope="module")
def loss():
    """verl's distillation loss with ours; returns (gradient, metrics) of the three rollouts."""
    from verl.trainer.distillation import losses
    from verl.workers.config import DistillationLossConfig

    import merging.exopd.loss  # noqa: F401

    def loss(aggregation="seq-mean-token-mean", **columns):
        rows = rollouts(SCALES)
        data, output, leaves = micro_batch(rows)
        data["rm_scores"] = jagged(
            torch.cat([torch.zeros(row.response - 1), torch.tensor([reward])])
            for row, reward in zip(rows, REWARDS, strict=True)
        )
        data["advantages"] = jagged(
            torch.full((row.response,), task) for row, task in zip(rows, TASK, strict=True)
        )
        for name, values in columns.items():
            data[name] = NonTensorStack(*values)
        settings = DistillationLossConfig(
            loss_mode="exopd", use_policy_gradient=True, use_task_rewards=False, loss_max_clamp=None,
            log_prob_min_clamp=None,
        )  # fmt: skip
        config = SimpleNamespace(distillation_loss=settings, teacher_models={"math": None, "code": None})
        found, metrics = losses.distillation_loss(actor_config(aggregation), config, output, data)
        return torch.cat(torch.autograd.grad(found, leaves)), metrics

    return loss


def by_hand(change=lambda advantage, index: advantage, largest=float("inf")):
    """d loss / d S: -A of each token times the domain's weight / (response tokens * sequences)."""
    pieces = []
    for index, row in enumerate(rollouts(SCALES)):
        s, t, b = (response_part(row, values) for values in (row.student, row.teacher_logp, row.reference))
        advantage = change(row.scale * (t - b).clamp(-largest, largest) - (s - b), index)
        gradient = torch.zeros(row.prompt + row.response, dtype=torch.float64)
        gradient[row.prompt - 1 : -1] = -advantage * WEIGHTS[row.teacher] / row.response / 3
        pieces.append(gradient)
    return torch.cat(pieces)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_rewards_that_no_column_asks_for_change_nothing(loss):
    gradient, metrics = loss()
    close(gradient, by_hand())
    names = ("gate_open", "added_advantage", "log_ratio_clipped")
    assert not [name for name in metrics if name.endswith(names)]


def test_the_gate_lets_through_where_verifier_and_advantage_agree(loss):
    gradient, metrics = loss(verifier_gates=[1.0, 1.0, 1.0])
    expected = by_hand(lambda a, index: a.clamp(min=0) if REWARDS[index] else a.clamp(max=0))
    close(gradient, expected)
    assert (gradient - loss()[0]).abs().max() > 1e-3
    through = (expected != 0).sum().item()
    counted = sum(metrics[f"teacher/{name}/gate_open"].aggregate() for name in ("math", "code"))
    assert 0 < through < 9 and counted == through


def test_a_domain_without_a_gate_keeps_its_advantages(loss):
    gradient, metrics = loss(verifier_gates=[1.0, 0.0, 1.0])
    close(gradient, by_hand(lambda a, i: a if i == 1 else a.clamp(min=0) if REWARDS[i] else a.clamp(max=0)))
    assert metrics["teacher/code/gate_open"].aggregate() == 2  # all of its tokens


def test_the_rewards_advantage_is_added_with_its_weight(loss):
    gradient, metrics = loss(verifier_weight=[0.5, 0.0, 0.5])
    close(gradient, by_hand(lambda a, index: a + (0.0, 0.5)[index != 1] * TASK[index]))
    assert metrics["teacher/math/added_advantage"].aggregate() == pytest.approx(0.5 * 0.7 * (4 + 3), rel=1e-5)
    assert metrics["teacher/code/added_advantage"].aggregate() == 0


def test_the_ratio_is_clipped_and_the_clipped_tokens_are_counted(loss):
    gradient, metrics = loss(clip_log_ratio=[0.4] * 3)
    close(gradient, by_hand(largest=0.4))
    ratios = [
        response_part(row, row.teacher_logp) - response_part(row, row.reference)
        for row in rollouts(SCALES)
        if row.teacher == "math"
    ]
    above = (torch.cat(ratios).abs() > 0.4).sum().item()
    assert 0 < above < 7
    assert metrics["teacher/math/log_ratio_clipped"].aggregate() == above
    # the ratio itself is shown as it is
    assert metrics["teacher/math/implicit_reward"].aggregate() == pytest.approx(
        torch.cat(ratios).sum().item()
    )


def test_clip_and_gate_together(loss):
    gradient, _ = loss(clip_log_ratio=[0.4] * 3, verifier_gates=[1.0] * 3)
    change = lambda a, index: a.clamp(min=0) if REWARDS[index] else a.clamp(max=0)  # noqa: E731
    close(gradient, by_hand(change, largest=0.4))


@pytest.mark.parametrize("aggregation", WHOLE)
def test_each_domains_share_is_that_of_the_aggregated_loss(loss, aggregation):
    """The sums of |d loss / d S|, as autograd gives them, are shared as the metric says."""
    gradient, metrics = loss(aggregation)
    sizes = [row.prompt + row.response for row in rollouts(SCALES)]
    of_rows = [part.abs().sum().item() for part in gradient.split(sizes)]
    shares = {name: metrics[f"teacher/{name}/gradient_share"].aggregate() for name in ("math", "code")}
    expected = of_rows[1] / sum(of_rows)
    assert shares["code"] / sum(shares.values()) == pytest.approx(expected, rel=1e-5)
