"""The objective of G-OPD / ExOPD (arXiv 2602.12125) as pure functions.

Symbols, per sampled token, natural logs, all read at temperature 1 on the same token ids:
    S  student_logp    log pi_theta(y_t | x, y_<t), the policy being trained
    T  teacher_logp    log pi*(y_t | ...), the teacher of the domain the prompt was routed to
    B  reference_logp  log pi_ref(y_t | ...), the base student by default
    lambda  reward_scale

SIGN. The paper prints (S - T) + (lambda - 1)(B - T). That is the COST. The advantage that multiplies
grad log pi_theta in gradient ASCENT is its negative, `gopd_advantage`; verl's distillation losses are
costs, so `gopd_cost` is what the verl loss returns, and nothing negates twice.

SHAPES. A tensor's name ends with its axes, here and in all code of the project, such as `logp_BTV`:
    B  sequences of a batch
    T  tokens of a sequence, prompt and response; padded to the longest where there is a B
    R  response tokens of a sequence, padded to the longest
    J  all tokens of a batch, sequence after sequence, without padding (verl's nested layout)
    N  the positions of a batch whose next token is scored, sequence after sequence
    V  vocabulary
    K  tokens kept of the vocabulary
    C  columns of one position: T, B, then log q
    D  width of a hidden state
    M  measures that the output head gives of a position
    H  heads of an attention, with A channels each
    P  the weights of one parameter, of any shape, or of all of them in a row; E in front: experts
    Q  rank of a LoRA adapter, with I inputs and O outputs of its layer
    1, 2  an axis of that length
A name without such an ending has the shape that its docstring says, mostly that of other arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from merging.exopd.lambda_schedule import reads_reference, reads_teacher

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


def clipped_teacher_logp(teacher_logp: Tensor, reference_logp: Tensor, largest: Tensor | float) -> Tensor:
    """T where |T - B| is at most `largest`, else B plus or minus that: the T whose log-ratio is clipped.

    `largest` broadcasts to the tensors' common shape. In `gopd_advantage` this gives
    A = lambda*clip(T - B) - (S - B): the reward is bounded, the divergence from the reference is not.
    """
    ratio = teacher_logp - reference_logp
    return teacher_logp - ratio.sign() * (ratio.abs() - largest).clamp(min=0)


RIGHT = 0.5
"""Least reward, in [0, 1], of an answer that counts as right."""


def gated_advantage(advantage_BR: Tensor, reward_B1: Tensor) -> Tensor:
    """A where the verifier agrees with its sign, else 0: A > 0 in a right answer, A < 0 in a wrong one.

    SIGN. `advantage_BR` is the ascent advantage, so the tokens of a right answer are only ever made likelier,
    and those of a wrong one less likely.
    """
    agrees_BR = ((reward_B1 >= RIGHT) & (advantage_BR > 0)) | ((reward_B1 < RIGHT) & (advantage_BR < 0))
    return advantage_BR * agrees_BR


def added_advantage(advantage_BR: Tensor, task_advantage_BR: Tensor, weight: Tensor | float) -> Tensor:
    """A + weight*G, both to be ascended; G is an answer's advantage by its reward, the same at each token."""
    return advantage_BR + weight * task_advantage_BR


def aggregation_weights(mask_BR: Tensor, aggregation: str) -> Tensor | float:
    """What one token's loss counts for under a `training.loss_aggregation`, but for a factor that all share:
    1 / response tokens, weights_B1, where each answer is averaged first, else 1."""
    if aggregation != "seq-mean-token-mean":
        return 1.0
    return 1.0 / mask_BR.sum(dim=1, keepdim=True).clamp(min=1)


def optimum_logp(teacher_logp_V: Tensor, reference_logp_V: Tensor, reward_scale: float) -> Tensor:
    """log q over the vocabulary (last axis): q = softmax(lambda*T + (1 - lambda)*B), A's fixed point."""
    return (reward_scale * teacher_logp_V + (1.0 - reward_scale) * reference_logp_V).log_softmax(dim=-1)


def optimum(reward_scale: float) -> Callable[..., Tensor]:
    """log q as a function of the distributions that this lambda reads (`lambda_schedule.models_read`): the
    teacher's and the reference's, or the one of them that is q."""
    if reads_teacher(reward_scale) and reads_reference(reward_scale):
        return partial(optimum_logp, reward_scale=reward_scale)
    return lambda logp_V: logp_V


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
