"""Scores each rollout as it ends: by its routed teacher and by the reference, in the same engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import ray
import torch

from merging.scorer_actor import ACTOR_NAME
from trainer.agent_loop import LoudAgentLoopManager, LoudAgentLoopWorker, plain


class ScoringAgentLoopWorker(LoudAgentLoopWorker):
    """Attaches `teacher_logprobs` [tokens, 2] to a rollout: teacher T, reference B.

    Where the loss compares distributions, log q follows: of the tokens in `teacher_ids` with the rest
    before them, [tokens, 2 + 1 + K], or of the whole vocabulary, [tokens, 2 + vocabulary].

    At lambda 1 the reference has no influence and is not scored: one pass instead of two, and B
    repeats T.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        settings = self.config.protege.scorer
        self.scorer = ray.get_actor(ACTOR_NAME) if settings.kind == "shared" else None
        self.distributions, self.top_k = settings.distributions, settings.top_k
        self.references = dict(settings.references)
        self.largest_log_ratio = settings.largest_log_ratio

    async def _compute_teacher_logprobs(self, output, prompt_ids, response_ids, validate, sample_kwargs=None):
        if validate:
            return
        teacher, reward_scale = (plain(sample_kwargs[key]) for key in ("teacher", "reward_scale"))
        models = [teacher] if reward_scale == 1.0 else [teacher, self.references[teacher]]
        if self.distributions:
            fields = await self._target(models, reward_scale, prompt_ids + response_ids, len(response_ids))
        else:
            score = self._score_shared if self.scorer is not None else self._score_pool
            columns = await score(models, prompt_ids + response_ids, len(response_ids))
            fields = {"teacher_logprobs": torch.stack([columns[0], columns[-1]], dim=-1)}
        check_scores(
            fields["teacher_logprobs"][-len(response_ids) - 1 : -1, :2],
            response_ids,
            teacher,
            self.largest_log_ratio,
            self.tokenizer.decode,
        )
        output.extra_fields.update(fields)

    async def _target(
        self, models: list[str], reward_scale: float, token_ids: list[int], response_tokens: int
    ) -> dict[str, torch.Tensor]:
        target = await self.scorer.target.remote(models, reward_scale, self.top_k, token_ids, response_tokens)
        found = {name: torch.from_numpy(value.copy()) for name, value in target.items() if value is not None}
        columns = [found[name] for name in ("teacher_logp", "reference_logp", "tail_logp") if name in found]
        fields = {"teacher_logprobs": torch.cat([torch.stack(columns, dim=-1), found["logp"]], dim=-1)}
        return fields | ({"teacher_ids": found["ids"]} if "ids" in found else {})

    async def _score_shared(self, models: list[str], token_ids: list[int], response_tokens: int):
        rows = await self.scorer.score.remote(models, token_ids, response_tokens)
        return [torch.from_numpy(row.copy()) for row in rows]

    async def _score_pool(self, models: list[str], token_ids: list[int], response_tokens: int):
        ask = self.teacher_server_manager.compute_teacher_logprobs_single
        answers = await asyncio.gather(*[ask(sequence_ids=token_ids, routing_key=model) for model in models])
        return [logprobs.squeeze(-1) for _, logprobs in answers]


def check_scores(
    scores_R2: torch.Tensor,
    response_ids: Sequence[int],
    domain: str,
    largest_log_ratio: float,
    decode: Callable[[list[int]], str],
) -> None:
    """Ends the run where a teacher's or the reference's scores cannot be right.

    `scores_R2` holds T and B of each response token. Raises ValueError, naming domain, token and place, for
    a number that is not finite and for |T - B| above `largest_log_ratio`.
    """
    ratio_R = scores_R2[:, 0] - scores_R2[:, 1]
    wrong = ~torch.isfinite(scores_R2).all(dim=1) | (ratio_R.abs() > largest_log_ratio)
    if not wrong.any():
        return
    place = int(wrong.nonzero()[0])
    teacher, reference = scores_R2[place].tolist()
    token, text = decode([response_ids[place]]), decode(list(response_ids))[:200]
    raise ValueError(
        f"domain {domain!r}: the score of response token {place + 1} of {len(response_ids)} ({token!r}) is "
        f"out of range: teacher {teacher:.4g}, reference {reference:.4g} (objective.largest_log_ratio = "
        f"{largest_log_ratio:g}); the response: {text!r}"
    )


class ScoringAgentLoopManager(LoudAgentLoopManager):
    """verl's manager with the scoring worker."""

    worker_class = ScoringAgentLoopWorker
