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
