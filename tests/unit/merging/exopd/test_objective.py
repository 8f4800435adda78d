"""The objective: hand-computed values, its identities, and where gradient ascent on it ends."""

import math

import pytest
import torch

from merging.exopd.objective import gopd_advantage, gopd_cost, optimum_logp, reverse_kl, reverse_kl_topk

S, T, B = (torch.tensor([math.log(p)]) for p in (0.3, 0.5, 0.2))


@pytest.mark.parametrize(
    ("reward_scale", "advantage"), [(0, -0.4055), (0.5, 0.0527), (1, 0.5108), (1.25, 0.7399), (1.5, 0.9690)]
)
def test_hand_computed_advantages(reward_scale, advantage):
    assert gopd_advantage(S, T, B, reward_scale).item() == pytest.approx(advantage, abs=5e-5)
    assert gopd_cost(S, T, B, reward_scale).item() == pytest.approx(-advantage, abs=5e-5)


def test_cost_is_the_formula_as_printed_in_the_paper():
    for reward_scale in (0.0, 0.7, 1.0, 1.25, 2.0):
        printed = (S - T) + (reward_scale - 1) * (B - T)
        torch.testing.assert_close(gopd_cost(S, T, B, reward_scale), printed)


def test_lambda_one_ignores_the_reference_and_lambda_zero_the_teacher():
    torch.testing.assert_close(gopd_advantage(S, T, B, 1.0), gopd_advantage(S, T, B - 3.0, 1.0))
    torch.testing.assert_close(gopd_advantage(S, T, B, 1.0), T - S)
    torch.testing.assert_close(gopd_advantage(S, T, B, 0.0), gopd_advantage(S, T - 3.0, B, 0.0))
    torch.testing.assert_close(gopd_advantage(S, T, B, 0.0), B - S)


@pytest.mark.parametrize("reward_scale", [0.0, 1.0, 1.25])
def test_advantage_vanishes_where_teacher_reference_and_student_agree(reward_scale):
    assert gopd_advantage(T, T, T, reward_scale).abs().max() == 0


def test_reward_scale_may_differ_by_row():
    rows = torch.tensor([[1.0], [1.25]])
    both = gopd_advantage(S.expand(2, 3), T.expand(2, 3), B.expand(2, 3), rows)
    assert both[0, 0].item() == pytest.approx(0.5108, abs=5e-5)
    assert both[1, 2].item() == pytest.approx(0.7399, abs=5e-5)


def vocabulary(seed: int, size: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher, reference = (
        torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    return student, teacher.log_softmax(-1), reference.log_softmax(-1)


@pytest.mark.parametrize("reward_scale", [0.0, 0.5, 1.0, 1.25, 2.0])
def test_expected_policy_gradient_is_minus_the_gradient_of_kl_to_the_optimum(reward_scale):
    logits, teacher, reference = vocabulary(seed=3)
    logits.requires_grad_()
    student = logits.log_softmax(-1)
    advantage = gopd_advantage(student.detach(), teacher, reference, reward_scale)
    expected = torch.autograd.grad((student.exp().detach() * advantage * student).sum(), logits)[0]
    student = logits.log_softmax(-1)
    kl = (student.exp() * (student - optimum_logp(teacher, reference, reward_scale))).sum()
    torch.testing.assert_close(expected, -torch.autograd.grad(kl, logits)[0])


@pytest.mark.parametrize("reward_scale", [0.5, 1.0, 1.25])
def test_ascent_ends_at_the_optimum(reward_scale):
    logits, teacher, reference = vocabulary(seed=5)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(2000):
        student = logits.log_softmax(-1)
        advantage = gopd_advantage(student.detach(), teacher, reference, reward_scale)
        loss = -(student.exp().detach() * advantage * student).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reached, optimum = logits.softmax(-1), optimum_logp(teacher, reference, reward_scale).exp()
    assert 0.5 * (reached - optimum).abs().sum() < 1e-3


def test_reverse_kl_by_hand():
    """p = (0.5, 0.5), q = (0.8, 0.2): 0.5 ln(0.5/0.8) + 0.5 ln(0.5/0.2)."""
    student, target = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.8, 0.2]]))
    assert reverse_kl(student, target).item() == pytest.approx(0.22314, abs=1e-5)
    assert reverse_kl(target, target).item() == 0


def test_topk_by_hand_with_its_tail():
    """p = (0.5, 0.3, 0.2), q = (0.2, 0.7, 0.1), K = the first token: the rest is 0.5 against 0.8."""
    student, target = torch.log(torch.tensor([0.5])), torch.log(torch.tensor([0.2]))
    found = reverse_kl_topk(student, target, torch.tensor(math.log(0.8)))
    assert found.item() == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8), abs=1e-6)


@pytest.mark.parametrize("reward_scale", [0.0, 0.5, 1.0, 1.25, 2.0])
def test_the_distributions_loss_has_the_expected_policy_gradient(reward_scale):
    logits, teacher, reference = vocabulary(seed=7)
    logits.requires_grad_()
    student = logits.log_softmax(-1)
    advantage = gopd_advantage(student.detach(), teacher, reference, reward_scale)
    ascent = torch.autograd.grad((student.exp().detach() * advantage * student).sum(), logits)[0]
    loss = reverse_kl(logits.log_softmax(-1), optimum_logp(teacher, reference, reward_scale))
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], -ascent)


def coarse(logits, target, k):
    """The loss over the k likeliest tokens of the target."""
    values, ids = target.topk(k)
    rest = target.exp().sum() - values.exp().sum()
    return reverse_kl_topk(logits.log_softmax(-1)[ids], values, rest.log())


def test_topk_is_a_lower_bound_that_grows_to_the_full_divergence():
    logits, teacher, reference = vocabulary(seed=9, size=12)
    target = optimum_logp(teacher, reference, 1.25)
    whole = reverse_kl(logits.log_softmax(-1), target)
    bounds = [coarse(logits, target, k).item() for k in (1, 4, 8, 11)]
    assert bounds == sorted(bounds) and 0 < bounds[0] < bounds[-1] <= whole.item() + 1e-9
    assert bounds[-1] == pytest.approx(whole.item(), abs=1e-6)  # one token outside: nothing is pooled


def test_topk_with_its_tail_does_not_drain_probability_out_of_the_tokens():
    logits, teacher, reference = vocabulary(seed=11, size=12)
    target = optimum_logp(teacher, reference, 1.25)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(1500):
        loss = coarse(logits, target, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids = target.topk(4).indices
    torch.testing.assert_close(logits.softmax(-1)[ids], target.exp()[ids], atol=1e-3, rtol=0)


def test_topk_where_the_student_has_no_tail_is_finite():
    student = torch.tensor([0.0, -60.0]).log_softmax(-1).requires_grad_()
    loss = reverse_kl_topk(student, torch.log(torch.tensor([0.5, 0.4])), torch.tensor(math.log(0.1)))
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()
