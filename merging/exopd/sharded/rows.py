"""Which rank scores which rollout under which model, and the columns made of the answers."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.exopd.lambda_schedule import models_read

if TYPE_CHECKING:
    import torch

Order = dict[str, list[tuple[int, Any, int]]]
"""By model, in the order that all ranks keep: place among the step's rollouts, token ids (numpy), and how
many of the last ones are the response."""

Answers = dict[str, dict[int, np.ndarray]]
"""By model and place: log-probabilities of the response tokens, float32."""


@dataclass(frozen=True)
class Rollout:
    """A rollout of the step, and who reads it."""

    token_ids: np.ndarray
    response_tokens: int
    teacher: str
    """Its domain."""
    models: tuple[str, ...]
    """Teacher and reference, or the one of them that its lambda reads."""

    @classmethod
    def of(
        cls,
        token_ids: np.ndarray,
        response_tokens: int,
        teacher: str,
        reward_scale: float,
        references: Mapping[str, str],
    ) -> Rollout:
        """`references` are the names of each domain's reference among the models."""
        models = models_read(reward_scale, teacher, references[teacher])
        return cls(token_ids, response_tokens, teacher, tuple(models))


def orders(rollouts: Sequence[Rollout], ranks: int) -> list[Order]:
    """What each rank scores: every model has its rollouts on all ranks, in about equal numbers of tokens."""
    by_model: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        for model in rollout.models:
            by_model.setdefault(model, []).append(place)
    found: list[Order] = [{} for _ in range(ranks)]
    for model in sorted(by_model):
        places = by_model[model]
        shares = dealt([len(rollouts[place].token_ids) for place in places], ranks)
        for order, share in zip(found, shares, strict=True):
            own = [(places[index], rollouts[places[index]]) for index in share]
            order[model] = [(place, each.token_ids, each.response_tokens) for place, each in own]
    return found


def dealt(sizes: Sequence[int], shares: int) -> list[list[int]]:
    """Places of the sizes in so many shares of about equal sums: the largest first, each to the share that
    has least. A share may be empty."""
    found: list[list[int]] = [[] for _ in range(shares)]
    least = [(0, share) for share in range(shares)]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        total, share = heapq.heappop(least)
        found[share].append(place)
        heapq.heappush(least, (total + sizes[place], share))
    return found


def joined(answers: Sequence[Answers]) -> Answers:
    """All ranks' answers."""
    found: Answers = {}
    for of_rank in answers:
        for model, rows in of_rank.items():
            found.setdefault(model, {}).update(rows)
    return found


def response_scores(place: int, rollout: Rollout, answers: Answers) -> torch.Tensor:
    """T and B of each response token, scores_R2, as the agent loop has them: where one model is read, both
    columns are its."""
    import torch

    columns = [torch.from_numpy(answers[model][place].copy()) for model in rollout.models]
    return torch.stack([columns[0], columns[-1]], dim=-1)


def teacher_logprobs(rollout: Rollout, scores_R2: torch.Tensor) -> torch.Tensor:
    """The column of the loss, scores_T2: position t scores token t+1; others hold 0."""
    tokens, response = len(rollout.token_ids), rollout.response_tokens
    scores_T2 = scores_R2.new_zeros(tokens, 2)
    scores_T2[tokens - response - 1 : tokens - 1] = scores_R2
    return scores_T2
