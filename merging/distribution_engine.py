"""verl's FSDP engine, which also compares the student's whole distribution with the objective's optimum.

verl lets a distillation loss see sampled tokens, or its own top-k forward KL, which is fixed. The place
where logits are at hand is the engine, and verl has a registry of engines: this one is registered under a
model type of its own (`actor_rollout_ref.model.model_type`), by `actor_rollout_ref.model.external_lib`.
"""

from __future__ import annotations

import torch
from verl.plugin.platform import get_platform
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from merging.names import DISTRIBUTION_MODEL_TYPE
from merging.objective import reverse_kl, reverse_kl_topk

TAIL = 2
"""Column of `teacher_logprobs` with log q outside of the K tokens; T and B stand before it."""


def _comparing(engine_class: type) -> type:
    class DistributionEngine(engine_class):
        """Adds `kl_to_optimum` (nested, [sequences, tokens]) to the output of a training pass."""

        def _build_module(self):
            self.model_config.model_type = "language_model"  # what it is; the other name chose this class
            return super()._build_module()

        def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
            outputs = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
            if logits_processor_func is not None and "teacher_logprobs" in micro_batch:
                outputs["kl_to_optimum"] = kl_to_optimum(output.logits, micro_batch)
            return outputs

    return DistributionEngine


def kl_to_optimum(logits_BTV: torch.Tensor, micro_batch) -> torch.Tensor:
    """KL(student || q) at the positions that score a response, nested [sequences, tokens]; elsewhere 0.

    `micro_batch` is nested: `input_ids`, `response_mask`, and log q behind the two columns of sampled
    tokens in `teacher_logprobs`, of the whole vocabulary or of the tokens in `teacher_ids`.
    """
    lengths = micro_batch["input_ids"].offsets().diff()
    responses = micro_batch["response_mask"].offsets().diff()
    positions_T = torch.arange(logits_BTV.shape[1], device=logits_BTV.device)
    last = (lengths - 1)[:, None]
    scored_BT = (positions_T >= last - responses[:, None]) & (positions_T < last)
    inside_BT = positions_T < lengths[:, None]
    scored_N = scored_BT[inside_BT]  # the nested layout: all tokens of all sequences, one after another
    student_NV = logits_BTV[scored_BT].float().log_softmax(dim=-1)
    scores_NC = micro_batch["teacher_logprobs"].values()[scored_N].float()
    if "teacher_ids" in micro_batch:
        ids_NK = micro_batch["teacher_ids"].values()[scored_N].long()
        kl_N = reverse_kl_topk(student_NV.gather(1, ids_NK), scores_NC[:, TAIL + 1 :], scores_NC[:, TAIL])
    else:
        kl_N = reverse_kl(student_NV, scores_NC[:, TAIL:])
    values = torch.zeros(len(scored_N), dtype=kl_N.dtype, device=kl_N.device).masked_scatter(scored_N, kl_N)
    return torch.nested.nested_tensor_from_jagged(values, micro_batch["input_ids"].offsets())


def register() -> None:
    """Registers the engine for this platform's device; a second call changes nothing."""
    device = get_platform().device_name
    if device in EngineRegistry._engines.get(DISTRIBUTION_MODEL_TYPE, {}).get("fsdp2", {}):
        return
    plain = FSDPEngineWithLMHead
    if device == "cpu":
        from trainer.cpu_engines import for_cpu

        plain = for_cpu(plain)
    decorate = EngineRegistry.register(
        model_type=DISTRIBUTION_MODEL_TYPE, backend=["fsdp", "fsdp2"], device=device
    )
    decorate(_comparing(plain))


register()
