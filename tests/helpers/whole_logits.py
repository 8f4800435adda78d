"""The slow and obvious way: verl's engine on padded micro-batches, with all logits at once."""

from __future__ import annotations

import torch
from torch import Tensor


def whole_logits_engine() -> type:
    """verl's own engine for language models, on a CPU; adds `kl_to_optimum` where log q is in the batch."""
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from trainer.cpu.engines import for_cpu

    class WholeLogitsEngine(for_cpu(FSDPEngineWithLMHead)):
        def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
            outputs = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
            if logits_processor_func is not None and "teacher_logprobs" in micro_batch:
                outputs["kl_to_optimum"] = _kl_to_optimum(output.logits, micro_batch)
            return outputs

    return WholeLogitsEngine


def _kl_to_optimum(logits_BTV: Tensor, micro_batch) -> Tensor:
    """KL(student || q) at every position, nested [sequences, tokens]."""
    lengths = micro_batch["input_ids"].offsets().diff().tolist()
    logits_NV = torch.cat([row[:length] for row, length in zip(logits_BTV, lengths, strict=True)])
    student_NV = logits_NV.float().log_softmax(dim=-1)
    scores_NC = micro_batch["teacher_logprobs"].values()
    if "teacher_ids" in micro_batch:
        student_NK = student_NV.gather(1, micro_batch["teacher_ids"].values().long())
        rest_N = (1 - student_NK.exp().sum(dim=-1)).clamp(min=1e-7)
        student_NV = torch.cat([student_NK, rest_N.log()[:, None]], dim=1)
        target_NV = torch.cat([scores_NC[:, 3:], scores_NC[:, 2:3]], dim=1)
    else:
        target_NV = scores_NC[:, 2:]
    kl_N = (student_NV.exp() * (student_NV - target_NV)).sum(dim=-1)
    return torch.nested.nested_tensor_from_jagged(kl_N, micro_batch["input_ids"].offsets())
