"""The training engine, which also compares the student's whole distribution with the objective's optimum.

verl lets a distillation loss see sampled tokens, or its own top-k forward KL, which is fixed. The place
where logits are at hand is the engine, chunk by chunk in its output head, and verl has a registry of engines:
this one is registered under a model type of its own (`actor_rollout_ref.model.model_type`), by
`actor_rollout_ref.model.external_lib`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from merging.exopd.names import DISTRIBUTION_MODEL_TYPE
from merging.exopd.objective import reverse_kl, reverse_kl_topk
from trainer.engine.chunked_head import Measure, Rows
from trainer.engine.registered import engine_class, register

if TYPE_CHECKING:
    import torch
    from tensordict import TensorDict

TAIL = 2
"""Column of `teacher_logprobs` with log q outside of the K tokens; T and B stand before it."""


class DistributionEngine(engine_class()):
    """Adds `kl_to_optimum` (nested, [B, T]) to the output of a training pass."""

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        if self.head is None:
            raise ValueError(
                f"objective.estimator: full and topk need the logits of a plain output head, which "
                f"{type(module).__name__} does not have; use estimator: sampled"
            )
        return module

    def measures(self, micro_batch: TensorDict) -> dict[str, Measure]:
        """verl's, and the divergence."""
        wanted = super().measures(micro_batch)
        return wanted | {"kl_to_optimum": kl_measure(micro_batch)} if self._compares(micro_batch) else wanted

    def rows(self, micro_batch: TensorDict, places_N: Tensor) -> Rows:
        """log q at the scored positions."""
        return optimum_rows(micro_batch, places_N) if self._compares(micro_batch) else {}

    def prepare_model_outputs(
        self, output: Any, output_args: Any, micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        outputs = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if self._compares(micro_batch) and "kl_to_optimum" not in outputs:
            raise ValueError(
                "objective.estimator: full and topk need use_remove_padding: true and "
                "use_fused_kernels: false"
            )
        return outputs

    def _compares(self, micro_batch: TensorDict) -> bool:
        return self.mode == "train" and "teacher_logprobs" in micro_batch


def kl_measure(micro_batch: TensorDict) -> Measure:
    """KL(student || q) by position: over the tokens of `teacher_ids` and their rest, or the vocabulary."""
    return _kl_to_largest if "teacher_ids" in micro_batch else _kl_to_whole


def optimum_rows(micro_batch: Any, places_N: Tensor) -> Rows:
    """What `kl_measure` reads at these packed positions: T, B and log q, and the ids of the K tokens.

    `micro_batch` is nested: in `teacher_logprobs` log q stands behind the two columns of sampled tokens, of
    the whole vocabulary or of the tokens in `teacher_ids`.
    """
    names = [name for name in ("teacher_logprobs", "teacher_ids") if name in micro_batch]
    return {name: micro_batch[name].values()[places_N] for name in names}


def _kl_to_whole(student_logp_NV: Tensor, rows: Rows) -> Tensor:
    return reverse_kl(student_logp_NV, rows["teacher_logprobs"][:, TAIL:].float())


def _kl_to_largest(student_logp_NV: Tensor, rows: Rows) -> Tensor:
    scores_NC = rows["teacher_logprobs"].float()
    student_logp_NK = student_logp_NV.gather(1, rows["teacher_ids"].long())
    return reverse_kl_topk(student_logp_NK, scores_NC[:, TAIL + 1 :], scores_NC[:, TAIL])


register(DISTRIBUTION_MODEL_TYPE, DistributionEngine)
