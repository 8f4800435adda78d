"""The maths of the estimators' benchmark, on a vocabulary that can be summed over by hand."""

from __future__ import annotations

import pytest

from benchmarks.estimators import (
    Position,
    agreement,
    full_gradient,
    sampled_gradient,
    sampled_variance,
    topk_gradient,
)

torch = pytest.importorskip("torch")


@pytest.fixture
def at() -> Position:
    generator = torch.Generator().manual_seed(3)
    logp = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    return Position(*logp, reward_scale=1.5)


def single_samples(at: Position) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(probability [positions], gradient [positions, vocabulary]) of each token, by autograd."""
    found = []
    for token in range(5):
        logits = at.student_NV.clone().requires_grad_(True)
        logp = logits.log_softmax(-1)[:, token]
        advantage = 1.5 * (at.teacher_NV - at.reference_NV) - (at.student_NV - at.reference_NV)
        (advantage[:, token] * logp).sum().backward()
        found.append((at.student_NV[:, token].exp(), logits.grad))
    return found


def test_the_sampled_gradients_mean_is_the_full_gradient(at):
    mean = sum(p[:, None] * gradient for p, gradient in single_samples(at))
    torch.testing.assert_close(mean, full_gradient(at))


def test_the_variance_is_that_of_single_samples(at):
    full = full_gradient(at)
    expected = sum(p * (gradient - full).square().sum(-1) for p, gradient in single_samples(at))
    torch.testing.assert_close(sampled_variance(at), expected)


def test_many_samples_come_near_with_the_variance_that_is_told(at):
    generator, full = torch.Generator().manual_seed(0), full_gradient(at)
    errors = [(sampled_gradient(at, 50, generator) - full).square().sum(-1) for _ in range(2000)]
    torch.testing.assert_close(torch.stack(errors).mean(0), sampled_variance(at) / 50, rtol=0.1, atol=0)
    cosine, ratio = agreement(sampled_gradient(at, 200_000, generator), full)
    assert cosine > 0.999 and ratio == pytest.approx(1, abs=0.02)


def test_one_sample_is_the_gradient_of_that_token(at):
    rows = sampled_gradient(at, 1, torch.Generator().manual_seed(1))
    singles = torch.stack([gradient for _, gradient in single_samples(at)])
    for position, row in enumerate(rows):
        assert any(torch.allclose(row, single) for single in singles[:, position])


def test_topk_of_all_tokens_but_one_is_the_full_gradient(at):
    """The bucket then holds one token, as if it were kept."""
    torch.testing.assert_close(topk_gradient(at, 4), full_gradient(at))
    assert agreement(topk_gradient(at, 1), full_gradient(at))[0] < 0.99


def test_agreement():
    one = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert agreement(2 * one, one) == pytest.approx((1.0, 2.0))
    assert agreement(torch.tensor([[0.0, 5.0], [0.0, 0.0]]), one) == pytest.approx((0.0, 1.0))
