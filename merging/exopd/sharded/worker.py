"""verl's worker of a training device, which also scores rollouts together with the other devices' workers."""

from __future__ import annotations

from typing import Any

from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.memory_utils import aggressive_empty_cache
from verl.workers.engine_workers import ActorRolloutRefWorker

from merging.exopd.sharded.rows import Answers, Order
from teachers.scoring.scored import Scored
from teachers.scoring.sharded.scorer import ShardedScorer


class ShardedScoringWorker(ActorRolloutRefWorker):
    """Holds a scorer whose weights are on the device while rollouts are scored, and at no other time.

    verl fills in the names of its dispatch modes at import, so no type checker sees them.
    """

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # pyright: ignore[reportAttributeAccessIssue]
    def load_scorer(self, settings: dict[str, Any]) -> None:
        """Reads every model once, so that a model that cannot be read ends the run before it samples.

        `settings` are the arguments of `ShardedScorer`.
        """
        self.scorer = ShardedScorer(**settings)
        aggressive_empty_cache(force_sync=True)  # vLLM, in a process of its own, is to have the memory

    @register(dispatch_mode=Dispatch.DP_COMPUTE)  # pyright: ignore[reportAttributeAccessIssue]
    def score_rollouts(self, order: Order) -> tuple[Answers, dict[str, float]]:
        """Scores of this rank's rollouts, and what they cost: `swaps`, and `bytes_read` on this rank.

        Called on all ranks at once, each with its own order.
        """
        before = self._counted()
        try:
            answers = {model: self._score(model, rows) for model, rows in order.items()}
        finally:
            self.scorer.close()
            aggressive_empty_cache(force_sync=True)
        return answers, {name: value - before[name] for name, value in self._counted().items()}

    def _score(self, model: str, rows: list[tuple[int, Any, int]]) -> dict[int, Any]:
        sequences = [Scored(tuple(token_ids.tolist()), response) for _, token_ids, response in rows]
        scores = self.scorer.score(model, sequences)
        return {
            place: logp_T[sequence.scoring_positions.start : sequence.scoring_positions.stop].numpy()
            for (place, _, _), sequence, logp_T in zip(rows, sequences, scores, strict=True)
        }

    def _counted(self) -> dict[str, float]:
        return {"swaps": self.scorer.swaps, "bytes_read": self.scorer.bytes_read}
