"""The estimators of the objective's gradient on the demo's student: `python -m benchmarks.estimators`.

At the merge's start student and reference are the demo student; the teacher is a perturbed copy of it. For
each answer token of some demonstrations the gradient with respect to the student's logits is estimated in
each way. The sampled policy gradient's mean goes to the full gradient as samples are added; its variance is
the price of one sample (exact, a sum over the vocabulary). `topk` has no variance, but a bias.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from merging.exopd.objective import gopd_advantage, optimum_logp, reverse_kl, reverse_kl_topk
from teachers.provenance import machine

if TYPE_CHECKING:
    from torch import Generator, Tensor

STUDENT = Path(__file__).resolve().parents[1] / "configs" / "demo" / "student"
SAMPLES = (1, 4, 16, 64, 256, 1024, 4096)
TOP_K = (1, 4, 16, 64)
PROMPTS = 16
NOISE = 0.01
"""Standard deviation of what the teacher's weights differ by."""


@dataclass(frozen=True)
class Position:
    """Log-probabilities at some positions, float64, and lambda."""

    student_NV: Tensor
    teacher_NV: Tensor
    reference_NV: Tensor
    reward_scale: float


def full_gradient(at: Position) -> Tensor:
    """Ascent direction -d KL(p || q) / d logits, gradient_NV, by autograd."""
    return _descent(at, reverse_kl)


def topk_gradient(at: Position, k: int) -> Tensor:
    """The same over q's `k` likeliest tokens and one bucket for the others: the estimator `topk`."""

    def divergence(student_NV: Tensor, target_NV: Tensor) -> Tensor:
        target_NK, ids_NK = target_NV.topk(k, dim=-1)
        tail_N = target_NV.scatter(-1, ids_NK, float("-inf")).logsumexp(-1)
        return reverse_kl_topk(student_NV.gather(-1, ids_NK), target_NK, tail_N)

    return _descent(at, divergence)


def sampled_gradient(at: Position, samples: int, generator: Generator) -> Tensor:
    """Mean of A * d log p(y) / d logits over so many tokens y ~ p (axis K) a position, gradient_NV."""
    import torch

    p_NV = at.student_NV.exp()
    tokens_NK = torch.multinomial(p_NV, samples, replacement=True, generator=generator)
    advantages_NK = _advantages(at).gather(-1, tokens_NK) / samples
    # d log p(y) / d logits = onehot(y) - p
    return torch.zeros_like(p_NV).scatter_add(-1, tokens_NK, advantages_NK) - (
        p_NV * advantages_NK.sum(-1, keepdim=True)
    )


def sampled_variance(at: Position) -> Tensor:
    """Trace of the covariance of one sample's gradient, variance_N: an exact sum over y."""
    p_NV, advantages_NV = at.student_NV.exp(), _advantages(at)
    squared_length_NV = 1 - 2 * p_NV + p_NV.square().sum(-1, keepdim=True)
    second_moment_N = (p_NV * advantages_NV.square() * squared_length_NV).sum(-1)
    mean_NV = p_NV * (advantages_NV - (p_NV * advantages_NV).sum(-1, keepdim=True))
    return second_moment_N - mean_NV.square().sum(-1)


def _advantages(at: Position) -> Tensor:
    """A of every token that could be sampled, advantages_NV."""
    return gopd_advantage(at.student_NV, at.teacher_NV, at.reference_NV, at.reward_scale)


def _descent(at: Position, divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    logits_NV = at.student_NV.detach().clone().requires_grad_(True)  # log-probabilities are logits too
    target_NV = optimum_logp(at.teacher_NV, at.reference_NV, at.reward_scale)
    divergence(logits_NV.log_softmax(-1), target_NV).sum().backward()
    assert logits_NV.grad is not None
    return -logits_NV.grad


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=main.__doc__)
    parser.add_argument("--reward-scale", type=float, default=1.25, help="lambda (default 1.25)")
    parser.add_argument("--seed", type=int, default=0, help="of the teacher's noise and the samples")
    options = parser.parse_args(arguments)
    generator = torch.Generator().manual_seed(options.seed)
    at = demo_positions(options.reward_scale, generator)
    exact_NV, noise = full_gradient(at), sampled_variance(at).mean().item()
    signal = exact_NV.square().sum(-1).mean().item()
    print(machine())
    print(f"{len(exact_NV)} tokens, lambda {options.reward_scale:g}; squared gradient {signal:.3g} a token")
    print(
        f"{'estimator':10}{'':>16}{'cosine to full':>16}{'norm ratio':>12}{'variance':>12}{'of signal':>12}"
    )
    print(_row("full", "", exact_NV, exact_NV, 0.0, signal))
    for k in TOP_K:
        print(_row("topk", f"k {k}", topk_gradient(at, k), exact_NV, 0.0, signal))
    for samples in SAMPLES:
        estimate_NV = sampled_gradient(at, samples, generator)
        print(_row("sampled", f"{samples} a token", estimate_NV, exact_NV, noise / samples, signal))


def _row(name: str, size: str, estimate_NV: Tensor, exact_NV: Tensor, variance: float, signal: float) -> str:
    cosine, ratio = agreement(estimate_NV, exact_NV)
    return f"{name:10}{size:>16}{cosine:16.4f}{ratio:12.3f}{variance:12.3g}{variance / signal:11.3g}x"


def agreement(estimate_NV: Tensor, exact_NV: Tensor) -> tuple[float, float]:
    """Cosine of both, over all positions as one vector, and the estimate's norm as a share of the other's."""
    product, norm, exact_norm = (estimate_NV * exact_NV).sum(), estimate_NV.norm(), exact_NV.norm()
    return (product / (norm * exact_norm)).item(), (norm / exact_norm).item()


def demo_positions(reward_scale: float, generator: Generator) -> Position:
    """Answer tokens of the first few demonstrations of the demo's math problems."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from configs.demo import problems

    student = AutoModelForCausalLM.from_pretrained(STUDENT).eval()
    teacher = AutoModelForCausalLM.from_pretrained(STUDENT).eval()
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    rows = []
    with torch.inference_mode():
        for weight in teacher.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=NOISE)
        for problem in problems.math_pools("train")[0][:PROMPTS]:
            prompt = tokenizer.encode(problem.prompt + "\n")
            ids_1T = torch.tensor([prompt + tokenizer.encode(problem.demonstration())])
            both = [model(ids_1T).logits[0].double().log_softmax(-1) for model in (student, teacher)]
            rows.append(torch.stack(both)[:, len(prompt) - 1 :])
    student_NV, teacher_NV = torch.cat(rows, dim=1).clone()
    return Position(student_NV, teacher_NV, student_NV, reward_scale)


if __name__ == "__main__":
    main()
