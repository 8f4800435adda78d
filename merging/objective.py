"""The objective of G-OPD / ExOPD (arXiv 2602.12125) as pure functions.

Symbols, per sampled token, natural logs, all read at temperature 1 on the same token ids:
    S  student_logp    log pi_theta(y_t | x, y_<t), the policy being trained
    T  teacher_logp    log pi*(y_t | ...), the teacher of the domain the prompt was routed to
    B  reference_logp  log pi_ref(y_t | ...), the student's initial weights by default
    lambda  reward_scale

SIGN. The paper prints (S - T) + (lambda - 1)(B - T). That is the COST. The advantage that multiplies
grad log pi_theta in gradient ASCENT is its negative, `gopd_advantage`; verl's distillation losses are
costs, so `gopd_cost` is what the verl loss returns, and nothing negates twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def gopd_advantage(
    student_logp: Tensor, teacher_logp: Tensor, reference_logp: Tensor, reward_scale: Tensor | float
) -> Tensor:
    """Ascent advantage A = lambda*(T - B) - (S - B), of the tensors' common shape.

    `reward_scale` is a number or a tensor that broadcasts to the shape. lambda 0 ignores the teacher,
    1 ignores the reference, above 1 extrapolates. Token-level: no return-to-go, no baseline.
    """
    return reward_scale * (teacher_logp - reference_logp) - (student_logp - reference_logp)


def gopd_cost(
    student_logp: Tensor, teacher_logp: Tensor, reference_logp: Tensor, reward_scale: Tensor | float
) -> Tensor:
    """The printed formula (S - T) + (lambda - 1)(B - T) = -A, of the tensors' common shape."""
    return -gopd_advantage(student_logp, teacher_logp, reference_logp, reward_scale)


def optimum_logp(teacher_logp_V: Tensor, reference_logp_V: Tensor, reward_scale: float) -> Tensor:
    """log q over the vocabulary (last axis): q = softmax(lambda*T + (1 - lambda)*B), A's fixed point."""
    return (reward_scale * teacher_logp_V + (1.0 - reward_scale) * reference_logp_V).log_softmax(dim=-1)


def optimum(reward_scale: float) -> Callable[..., Tensor]:
    """log q as a function of the distributions that this lambda reads: the teacher's, and the reference's
    unless lambda is 1, where q is the teacher."""
    if reward_scale == 1.0:
        return lambda teacher_logp_V: teacher_logp_V
    return partial(optimum_logp, reward_scale=reward_scale)


def reverse_kl(student_logp_V: Tensor, target_logp_V: Tensor) -> Tensor:
    """KL(p || q) over the vocabulary (last axis), of the leading shape; natural logs.

    With q = `optimum_logp` its gradient is the expectation of the sampled token's policy gradient, without
    the variance of the token.
    """
    return (student_logp_V.exp() * (student_logp_V - target_logp_V)).sum(dim=-1)


def reverse_kl_topk(student_logp_K: Tensor, target_logp_K: Tensor, target_tail_logp: Tensor) -> Tensor:
    """KL(p || q) over K tokens and one bucket that holds all others, of the leading shape.

    `target_tail_logp` is log q of that bucket. Never above the full KL, and 0 where p = q on the tokens.
    Without the bucket the divergence would fall by moving probability out of the K tokens.
    """
    outside = (1.0 - student_logp_K.exp().sum(dim=-1)).clamp(min=SMALLEST_TAIL)
    tail = outside * (outside.log() - target_tail_logp.clamp(min=math.log(SMALLEST_TAIL)))
    return reverse_kl(student_logp_K, target_logp_K) + tail


SMALLEST_TAIL = 1e-7
"""Probability outside the K tokens that float32 still tells from zero."""
