"""What goes into the scorer and what comes out: rollouts, and log-probabilities over their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Scored:
    """A rollout to score: prompt and response token ids, of which the last `response_tokens` count."""

    token_ids: tuple[int, ...]
    response_tokens: int

    @property
    def scoring_positions(self) -> range:
        """Positions whose logits score the response: position t predicts token t+1."""
        return range(len(self.token_ids) - self.response_tokens - 1, len(self.token_ids) - 1)


@dataclass(frozen=True)
class Target:
    """What one rollout is scored with where the whole optimum q is wanted, not its sampled tokens only.

    All are float32 over the rollout's tokens, but `ids_TK`; positions that no loss reads hold 0.
    """

    teacher_logp_T: torch.Tensor
    """log p(token t+1) under the teacher; where the objective reads the reference alone, its."""
    reference_logp_T: torch.Tensor
    """The same under the reference; where the objective reads the teacher alone, its."""
    log_q_TV: torch.Tensor
    """log q, of the whole vocabulary, or [tokens, K] of the tokens in `ids_TK`."""
    ids_TK: torch.Tensor | None = None
    """The K tokens of largest q, int32; None for the whole vocabulary."""
    tail_log_q_T: torch.Tensor | None = None
    """log of q's probability outside of the K tokens."""


def largest(log_q_NV: torch.Tensor, top_k: int) -> dict[str, torch.Tensor]:
    """The K largest of q with their ids, and the log-probability of the rest: columns of a `Target`."""
    import torch

    log_q_NK, ids_NK = log_q_NV.topk(min(top_k, log_q_NV.shape[1]), dim=1)
    tail_log_q_N = log_q_NV.scatter(1, ids_NK, float("-inf")).logsumexp(dim=1)
    return {"log_q_TV": log_q_NK, "ids_TK": ids_NK.to(torch.int32), "tail_log_q_T": tail_log_q_N}


def unpack(sequences: list[Scored], values_N: torch.Tensor) -> list[torch.Tensor]:
    """Rows of all scored positions, [N, ...], as one tensor [T, ...] a sequence; other positions hold 0."""
    import torch

    rows, start = [], 0
    for sequence in sequences:
        span = sequence.scoring_positions
        values_T = torch.zeros(len(sequence.token_ids), *values_N.shape[1:], dtype=values_N.dtype)
        values_T[span.start : span.stop] = values_N[start : start + len(span)]
        rows.append(values_T)
        start += len(span)
    return rows


def targets_of(sequences: list[Scored], columns: dict[str, torch.Tensor]) -> list[Target]:
    """Each sequence's own part of the columns, whose rows are all scored positions in order."""
    unpacked = {name: unpack(sequences, values) for name, values in columns.items()}
    return [
        Target(**{name: rows[index] for name, rows in unpacked.items()}) for index in range(len(sequences))
    ]
