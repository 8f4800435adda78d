"""verl's FSDP engine with packed sequences, whose output head never makes the logits of a whole micro-batch.

verl computes all logits of a micro-batch and then numbers from them. Here the model's output head is a
`ChunkedHead`: before each forward pass it is asked what verl asks the engine for, and answers in place of
logits. Prompt positions, which no loss and no metric reads, get log-probability 0.

verl's own path serves what the head does not do: `use_fused_kernels`, verl's own top-k distillation, the
sum of squared probabilities, padded micro-batches, and models whose head is not a plain linear layer or that
change their logits after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu

from trainer.engine.attention import FLASH, PACKED
from trainer.engine.chunked_head import ChunkedHead, Measure, Question, entropy, token_logp

if TYPE_CHECKING:
    from tensordict import TensorDict

LOG = logging.getLogger(__name__)

OVER_RANKS = (PACKED, FLASH)
"""Attention that works where several ranks share the tokens of a micro-batch."""

VERLS_OWN = ("use_fused_kernels", "distillation_use_topk", "calculate_sum_pi_squared")
"""What a micro-batch may ask for that only verl's own path gives."""


def scoring(engine_class: type) -> type:
    """An engine class of verl's for language models, with the chunked head."""

    class ScoringEngine(engine_class):
        head: ChunkedHead | None = None
        """None where the model needs verl's own path."""
        measures_old_entropy = True
        """Whether the pass before the update measures entropy. verl always asks for it; NaN stands for "not
        measured"."""

        def _build_module(self) -> torch.nn.Module:
            attention = self.model_config.hf_config._attn_implementation
            if self.use_ulysses_sp and attention not in OVER_RANKS:
                raise ValueError(
                    f"hardware.sequence_parallel: attention {attention!r} sees the tokens of its own device "
                    f"alone; valid: {', '.join(OVER_RANKS)}"
                )
            self.model_config.model_type = "language_model"  # what it is; another name may choose the class
            module = super()._build_module()
            self.head = ChunkedHead.replace_in(module)
            if self.head is None:
                LOG.warning("%s computes whole logits: its head is not a plain one", type(module).__name__)
            return module

        def forward_step(self, *arguments: Any, **named: Any) -> Any:
            try:
                return super().forward_step(*arguments, **named)
            finally:
                if self.head is not None:
                    self.head.question = None

        def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
            inputs, output_args = super().prepare_model_inputs(micro_batch)
            if self.head is not None and _packed_and_plain(micro_batch):
                self.head.question = output_args["question"] = self._question(micro_batch, output_args)
            return inputs, output_args

        def prepare_model_outputs(
            self, output: Any, output_args: Any, micro_batch: Any, logits_processor_func: Any
        ) -> dict[str, Tensor]:
            question = output_args.get("question")
            if question is None:
                return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
            answers_JM = self._gather_and_unpad_packed(output.logits[0], output_args["pad_size"])
            offsets = micro_batch["input_ids"].offsets()
            found = {
                name: torch.nested.nested_tensor_from_jagged(values_J, offsets)
                for name, values_J in zip(question.measures, answers_JM.unbind(dim=1), strict=True)
            }
            if _asks(micro_batch, "calculate_entropy") and "entropy" not in found:
                found["entropy"] = torch.full_like(found["log_probs"], float("nan"))
            return found

        def measures(self, micro_batch: TensorDict) -> dict[str, Measure]:
            """What is computed at each scored position; names are those of verl's model output."""
            wanted: dict[str, Measure] = {"log_probs": token_logp}
            measured = self.mode == "train" or self.measures_old_entropy
            if measured and _asks(micro_batch, "calculate_entropy"):
                wanted["entropy"] = entropy
            return wanted

        def rows(self, micro_batch: TensorDict, places_N: Tensor) -> Mapping[str, Tensor]:
            """What further measures read, [N, ...]; places are those of the whole packed micro-batch."""
            return {}

        def _question(self, micro_batch: TensorDict, output_args: Mapping[str, Any]) -> Question:
            next_ids_J = output_args["input_ids_rmpad_rolled"]
            everywhere_N = scored_places(micro_batch)
            begin = self._first_place(len(next_ids_J))
            mine_N = everywhere_N[(everywhere_N >= begin) & (everywhere_N < begin + len(next_ids_J))]
            places_N = mine_N - begin
            rows = {"next_ids": next_ids_J[places_N], **self.rows(micro_batch, mine_N)}
            if not output_args["temperature_is_one"]:
                rows["temperature"] = output_args["temperature_rmpad"][places_N].clamp(min=1e-8)
            return Question(places_N, rows, self.measures(micro_batch))

        def _first_place(self, tokens: int) -> int:
            """Where this rank's share of the packed tokens begins."""
            return self.ulysses_device_mesh["sp"].get_local_rank() * tokens if self.use_ulysses_sp else 0

    return ScoringEngine


def scored_places(micro_batch: Any) -> Tensor:
    """places_N among J: where the next token is part of a response, ascending.

    `micro_batch` is a TensorDict of nested tensors, whose methods torch does not declare: `input_ids`, and
    `response_mask` of the response tokens (reinforcement learning and distillation) or `loss_mask` of all
    tokens (supervised fine-tuning); with neither, every position counts.
    """
    ends_B = micro_batch["input_ids"].offsets()[1:]
    tokens = len(micro_batch["input_ids"].values())
    responses, loss_mask = micro_batch.get("response_mask", None), micro_batch.get("loss_mask", None)
    if responses is not None and responses.is_nested:
        lengths_B = responses.offsets().diff()
        steps_J = torch.zeros(tokens, dtype=torch.long, device=ends_B.device)
        steps_J.index_add_(0, ends_B - lengths_B - 1, torch.ones_like(ends_B))
        steps_J.index_add_(0, ends_B - 1, -torch.ones_like(ends_B))
        scored_J = steps_J.cumsum(0) > 0
    elif loss_mask is not None and loss_mask.is_nested and len(loss_mask.values()) == tokens:
        scored_J = loss_mask.values().roll(-1) > 0
    else:
        scored_J = torch.ones(tokens, dtype=torch.bool, device=ends_B.device)
    return scored_J.nonzero().squeeze(1)


def _packed_and_plain(micro_batch: TensorDict) -> bool:
    packed = bool(tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True))
    return packed and not any(_asks(micro_batch, name) for name in VERLS_OWN)


def _asks(micro_batch: TensorDict, name: str) -> bool:
    return bool(tu.get_non_tensor_data(data=micro_batch, key=name, default=False))
