"""Scores each rollout as it ends: by its routed teacher and by the reference, in the same engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from merging.exopd.lambda_schedule import models_read
from merging.exopd.replicas.client import Replicas
from teachers.served.client import clients_of
from trainer.within.agent_loop import LoudAgentLoopManager, LoudAgentLoopWorker, plain
from trainer.within.gathered import Gathered


class ScoringAgentLoopWorker(LoudAgentLoopWorker):
    """Attaches `teacher_logprobs` [T, C] to a rollout: teacher T and reference B.

    Where the loss compares distributions, log q follows: of the tokens in `teacher_ids` with the rest
    before them, C = 2 + 1 + K, or of the whole vocabulary, C = 2 + V.

    Where lambda reads one model alone, the other is not scored: one pass instead of two, and its column
    repeats the one that is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.config.protege.scorer
        self.scorer = Replicas.connect() if settings.kind == "shared" else None
        self.distributions, self.top_k = settings.distributions, settings.top_k
        self.references = dict(settings.references)
        self.largest_log_ratio = settings.largest_log_ratio
        self.served = clients_of(settings.get("served", {}), self.rollout_config.agent.num_workers)
        self.answered: Gathered[None] = Gathered(self._go_on, largest=32, patience=1.0)

    async def _run_prompt(self, *args: Any, **kwargs: Any) -> None:
        self.answered.expect(self.rollout_config.n)
        await super()._run_prompt(*args, **kwargs)

    async def _go_on(self, _answers: list[None]) -> None:
        """Answers that end at nearly the same time are scored together: a change of models costs a swap."""

    async def _compute_teacher_logprobs(
        self,
        output: AgentLoopOutput,
        prompt_ids: list[int],
        response_ids: list[int],
        validate: bool,
        sample_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if validate:
            return
        assert sample_kwargs is not None, "verl hands over the row of every rollout"
        await self.answered.put(None)
        teacher, reward_scale = (plain(sample_kwargs[key]) for key in ("teacher", "reward_scale"))
        output.extra_fields.update(await self.scores(teacher, reward_scale, prompt_ids, response_ids))

    async def scores(
        self, teacher: str, reward_scale: float, prompt_ids: list[int], response_ids: list[int]
    ) -> dict[str, torch.Tensor]:
        """What is attached to a rollout of this teacher's domain at this lambda; raises ValueError for scores
        that cannot be right."""
        models = models_read(reward_scale, teacher, self.references[teacher])
        token_ids, response_tokens = prompt_ids + response_ids, len(response_ids)
        if self.distributions:
            fields = await self._target(models, reward_scale, token_ids, response_tokens)
        else:
            columns = await self._columns(models, token_ids, response_tokens)
            scores_TC = torch.stack([columns[0], columns[-1]], dim=-1)
            fields = {"teacher_logprobs": scores_TC}
        check_scores(
            fields["teacher_logprobs"][-response_tokens - 1 : -1, :2],
            response_ids,
            teacher,
            self.largest_log_ratio,
            self.tokenizer.decode,
            models_read(reward_scale, "teacher", "reference"),
        )
        return fields

    async def _target(
        self, models: list[str], reward_scale: float, token_ids: list[int], response_tokens: int
    ) -> dict[str, torch.Tensor]:
        assert self.scorer is not None, "the pool sends no distributions"
        target = await self.scorer.target(models, reward_scale, self.top_k, token_ids, response_tokens)
        found = {name: torch.from_numpy(value.copy()) for name, value in target.items() if value is not None}
        sampled = [
            found[name] for name in ("teacher_logp_T", "reference_logp_T", "tail_log_q_T") if name in found
        ]
        scores_TC = torch.cat([torch.stack(sampled, dim=-1), found["log_q_TV"]], dim=-1)
        return {"teacher_logprobs": scores_TC} | (
            {"teacher_ids": found["ids_TK"]} if "ids_TK" in found else {}
        )

    async def _columns(
        self, models: list[str], token_ids: list[int], response_tokens: int
    ) -> list[torch.Tensor]:
        """Each model's logp_T: of a served one from its server, of the others from the scorer."""
        served = [model for model in models if model in self.served]
        held = [model for model in models if model not in self.served]
        answers = await asyncio.gather(
            self._from_scorer(held, token_ids, response_tokens),
            asyncio.gather(*(self.served[model].score(token_ids, response_tokens) for model in served)),
        )
        columns = dict(zip([*held, *served], [*answers[0], *answers[1]], strict=True))
        return [columns[model] for model in models]

    async def _from_scorer(
        self, models: list[str], token_ids: list[int], response_tokens: int
    ) -> list[torch.Tensor]:
        """Each model's logp_T."""
        if not models:
            return []
        score = self._score_shared if self.scorer is not None else self._score_pool
        return await score(models, token_ids, response_tokens)

    async def _score_shared(
        self, models: list[str], token_ids: list[int], response_tokens: int
    ) -> list[torch.Tensor]:
        """Each model's logp_T."""
        assert self.scorer is not None
        rows = await self.scorer.score(models, token_ids, response_tokens)
        return [torch.from_numpy(row.copy()) for row in rows]

    async def _score_pool(
        self, models: list[str], token_ids: list[int], response_tokens: int
    ) -> list[torch.Tensor]:
        ask = self.teacher_server_manager.compute_teacher_logprobs_single
        answers = await asyncio.gather(*[ask(sequence_ids=token_ids, routing_key=model) for model in models])
        return [logp_T1.squeeze(-1) for _, logp_T1 in answers]


def check_scores(
    scores_R2: torch.Tensor,
    response_ids: Sequence[int],
    domain: str,
    largest_log_ratio: float,
    decode: Callable[[list[int]], str],
    read: Sequence[str] = ("teacher", "reference"),
) -> None:
    """Ends the run where a teacher's or the reference's scores cannot be right.

    `scores_R2` holds T and B of each response token, `read` names those that were read. Raises ValueError,
    naming domain, token and place, for a number that is not finite and for |T - B| above `largest_log_ratio`.
    """
    ratio_R = scores_R2[:, 0] - scores_R2[:, 1]
    wrong_R = ~torch.isfinite(scores_R2).all(dim=1) | (ratio_R.abs() > largest_log_ratio)
    if not wrong_R.any():
        return
    place = int(wrong_R.nonzero()[0])
    columns: dict[str, float] = dict(zip(("teacher", "reference"), scores_R2[place].tolist(), strict=True))
    found = ", ".join(f"{name} {columns[name]:.4g}" for name in read)
    token, text = decode([response_ids[place]]), decode(list(response_ids))[:200]
    raise ValueError(
        f"domain {domain!r}: the score of response token {place + 1} of {len(response_ids)} ({token!r}) is "
        f"out of range: {found} (objective.largest_log_ratio = {largest_log_ratio:g}); the response: {text!r}"
    )


class ScoringAgentLoopManager(LoudAgentLoopManager):
    """verl's manager with the scoring worker."""

    worker_class = ScoringAgentLoopWorker
