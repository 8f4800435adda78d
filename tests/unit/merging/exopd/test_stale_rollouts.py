"""Answers of older weights: what the importance weight corrects, and why `full` and `topk` need none."""

import pytest
import torch

from merging.exopd.objective import gopd_advantage, optimum_logp, reverse_kl

VOCABULARY = 7


@pytest.fixture
def logits():
    """Logits of now, of one update ago, of teacher and of reference, over a small vocabulary."""
    generator = torch.Generator().manual_seed(0)
    now, teacher, reference = torch.randn(3, VOCABULARY, generator=generator, dtype=torch.float64)
    old = now + 0.3 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    return now.requires_grad_(), old, teacher, reference


def expected_gradient(now, sampler_logp, advantage, weight):
    """The mean over tokens of the sampler of weight * A * grad log p_now, in ascent."""
    loss = (sampler_logp.exp() * (weight * advantage).detach() * now.log_softmax(0)).sum()
    return torch.autograd.grad(loss, now)[0]


@pytest.mark.parametrize("reward_scale", [0.5, 1.0, 1.25])
def test_the_weighted_gradient_on_old_tokens_is_that_of_the_divergence_now(logits, reward_scale):
    """E_{y ~ old}[p_now / p_old * A * grad log p_now] = -grad KL(p_now || q), what `full` computes: the
    token's staleness is corrected exactly, and the direct loss has none."""
    now, old, teacher, reference = logits
    logp, sampler, T, B = (part.log_softmax(0) for part in (now, old, teacher, reference))
    advantage = gopd_advantage(logp, T, B, reward_scale)
    weight = (logp - sampler).exp()
    divergence = reverse_kl(logp, optimum_logp(T, B, reward_scale))
    exact = -torch.autograd.grad(divergence, now, retain_graph=True)[0]
    assert torch.allclose(expected_gradient(now, sampler, advantage, weight), exact, atol=1e-12)

    unweighted = expected_gradient(now, sampler, advantage, torch.ones_like(weight))
    assert (unweighted - exact).norm() > 0.05 * exact.norm()
