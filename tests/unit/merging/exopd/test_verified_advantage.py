"""What clip, gate and reward do to the advantage: by hand, and the identities that they keep."""

import math

import pytest
import torch

from merging.exopd.objective import (
    added_advantage,
    aggregation_weights,
    clipped_teacher_logp,
    gated_advantage,
    gopd_advantage,
    optimum_logp,
    reverse_kl,
)

S, T, B = (torch.tensor([math.log(p)]) for p in (0.3, 0.5, 0.2))

# --------------------------------------------------------------------------------------------- clip


@pytest.mark.parametrize(
    ("largest", "reward_scale", "advantage"),
    # T - B = ln 2.5 = 0.9163, S - B = ln 1.5 = 0.4055
    [(0.5, 1.25, 0.2195), (0.5, 2.0, 0.5945), (0.9, 1.25, 0.7195), (1, 1.25, 0.7399), (1e9, 1.5, 0.969)],
)  # fmt: skip
def test_a_clipped_ratio_by_hand(largest, reward_scale, advantage):
    teacher = clipped_teacher_logp(T, B, largest)
    assert gopd_advantage(S, teacher, B, reward_scale).item() == pytest.approx(advantage, abs=5e-5)


def test_the_clip_is_symmetric_and_leaves_what_is_inside_as_it_is():
    teacher, reference = torch.tensor([-1.0, -5.0, -1.3]), torch.tensor([-4.0, -1.0, -1.1])
    clipped = clipped_teacher_logp(teacher, reference, 2.0)
    torch.testing.assert_close(clipped, torch.tensor([-2.0, -3.0, -1.3]))
    assert clipped[2] == teacher[2]
    rows_B1 = torch.tensor([[1.0], [math.inf]])
    both_BR = clipped_teacher_logp(torch.stack([teacher] * 2), torch.stack([reference] * 2), rows_B1)
    torch.testing.assert_close(both_BR, torch.stack([torch.tensor([-3.0, -2.0, -1.3]), teacher]))


def test_where_one_model_is_read_alone_nothing_is_clipped():
    """The agent loop then repeats its column."""
    torch.testing.assert_close(clipped_teacher_logp(T, T, 0.01), T)


def test_the_clipped_objective_ends_at_the_reference_tilted_by_the_clipped_reward():
    """E[A grad log p] is minus the gradient of KL(p || q), q of B * exp(lambda * clip(T - B))."""
    generator = torch.Generator().manual_seed(3)
    logits, teacher, reference = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(3))
    teacher, reference = (2 * teacher).log_softmax(-1), reference.log_softmax(-1)
    logits.requires_grad_()
    student = logits.log_softmax(-1)
    clipped = clipped_teacher_logp(teacher, reference, 0.7)
    advantage = gopd_advantage(student, clipped, reference, 1.25).detach()
    (found,) = torch.autograd.grad((student.exp().detach() * advantage * student).sum(), logits)
    target = (reference + 1.25 * (teacher - reference).clamp(-0.7, 0.7)).log_softmax(-1)
    (expected,) = torch.autograd.grad(-reverse_kl(logits.log_softmax(-1), target), logits)
    torch.testing.assert_close(found, expected)
    assert (target - optimum_logp(teacher, reference, 1.25)).abs().max() > 0.1


# --------------------------------------------------------------------------------------------- gate

A_BR = torch.tensor([[0.7399, -0.4055, 0.0], [0.7399, -0.4055, 0.0]])
RIGHT_AND_WRONG_B1 = torch.tensor([[1.0], [0.0]])


def test_the_gate_by_hand():
    """A right answer lets advantages above 0 through, a wrong one those below."""
    found = gated_advantage(A_BR, RIGHT_AND_WRONG_B1)
    assert found.tolist() == torch.tensor([[0.7399, 0.0, 0.0], [0.0, -0.4055, 0.0]]).tolist()


def test_right_and_wrong_are_the_two_halves_of_the_advantage():
    right = torch.ones_like(RIGHT_AND_WRONG_B1)
    torch.testing.assert_close(gated_advantage(A_BR, right) + gated_advantage(A_BR, 1 - right), A_BR)
    assert (gated_advantage(A_BR, right) >= 0).all() and (gated_advantage(A_BR, 1 - right) <= 0).all()


@pytest.mark.parametrize(("reward", "first"), [(0.49, 0.0), (0.5, 0.7399), (1.0, 0.7399)])
def test_half_the_reward_is_right(reward, first):
    assert gated_advantage(A_BR, torch.full((2, 1), reward))[0, 0].item() == pytest.approx(first)


def test_ascent_on_the_gated_advantage_never_unlearns_a_right_answer():
    """One sampled token, many times: its probability rises if it is right, falls if it is wrong, or stays."""
    for teacher, reward, direction in ((0.9, 1.0, 1), (0.9, 0.0, 0), (0.1, 1.0, 0), (0.1, 0.0, -1)):
        logits = torch.zeros(2, requires_grad=True)
        logp = logits.log_softmax(-1)[:1]
        teacher_logp = torch.tensor([math.log(teacher)])
        advantage = gopd_advantage(logp.detach(), teacher_logp, torch.tensor([math.log(0.5)]), 1.25)
        gated = gated_advantage(advantage[None], torch.tensor([[reward]]))[0]
        (gradient,) = torch.autograd.grad((gated * logp).sum(), logits)
        assert gradient[0].sign().item() == direction, (teacher, reward)


# ---------------------------------------------------------------------------------------------- add


def test_an_added_reward_by_hand():
    task_BR = torch.tensor([[0.7071] * 3, [-0.7071] * 3])
    found = added_advantage(A_BR, task_BR, 0.5)
    expected = torch.tensor([[1.09345, -0.05195, 0.35355], [0.38635, -0.75905, -0.35355]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(added_advantage(A_BR, task_BR, 0.0), A_BR)


# -------------------------------------------------------------------------------------- aggregation


def test_long_and_short_answers_share_the_gradient_as_the_loss_does():
    """Equal |A|, 8000 and 80 tokens: half each under the paper's mean of means, else 99% to 1%."""
    mask_BR = torch.arange(8000) < torch.tensor([[8000], [80]])
    for aggregation, share in (("seq-mean-token-mean", 0.5), ("token-mean", 8000 / 8080)):
        sums_B = (mask_BR * 0.3 * aggregation_weights(mask_BR, aggregation)).sum(dim=1)
        assert (sums_B[0] / sums_B.sum()).item() == pytest.approx(share, rel=1e-4)
    assert aggregation_weights(mask_BR, "seq-mean-token-sum") == 1.0
