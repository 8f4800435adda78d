"""An output head that gives numbers per token in place of logits, and never holds many logits at a time.

With a vocabulary of 151,936 the logits of 32,768 positions take 10 GB in bfloat16, and log-probabilities from
them several times that. This head applies itself to chunks of positions and keeps of each chunk what is asked
for, such as the log-probability of the next token. Gradients recompute each chunk. Positions that nothing
scores, those of prompts, are left out.

Shapes are those of `merging.exopd.objective`: J all tokens of a packed micro-batch, N of them scored, D
hidden width, V vocabulary, M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

LOGITS_AT_ONCE = 2**27
"""Logits that exist at the same time: 883 positions of a vocabulary of 151,936, 512 MiB in float32."""

Rows = Mapping[str, Tensor]
"""What measures read beside log-probabilities, by name, [N, ...]; `next_ids` [N] is always there."""

Measure = Callable[[Tensor, Rows], Tensor]
"""(log-probabilities [N, V] in float32, rows) -> one number a position, [N]."""


def token_logp(logp_NV: Tensor, rows: Rows) -> Tensor:
    """Log-probability of the token that follows, [N]."""
    return logp_NV.gather(1, rows["next_ids"][:, None]).squeeze(1)


def entropy(logp_NV: Tensor, rows: Rows) -> Tensor:
    """Entropy of the next token, in nats, [N]."""
    return -(logp_NV.exp() * logp_NV).sum(dim=-1)


@dataclass(frozen=True)
class Question:
    """What one micro-batch asks of the head."""

    places_N: Tensor
    """Positions that are scored, of all J of this rank."""
    rows: Rows
    """`next_ids`, `temperature` where it is not 1, and what further measures read."""
    measures: Mapping[str, Measure]


class ChunkedHead(nn.Linear):
    """A model's output head, with the same weight under the same name, that answers questions.

    While a question is open, `forward` returns [1, J, M] in float32, the measures in their order, with 0
    where nothing is scored. Without one it returns logits, as before. Answers leave through the model's
    output, so FSDP2 gathers the weight for this module's forward and backward as it does for any other.
    """

    question: Question | None = None

    @classmethod
    def replace_in(cls, model: Any) -> ChunkedHead | None:
        """Puts one in the place of the head of a transformers model.

        None, and nothing is replaced, where it would not do: the head is not a plain linear layer, or the
        model changes its logits after the head.
        """
        plain = model.get_output_embeddings()
        if type(plain) is not nn.Linear or logit_settings(model.config):
            return None
        head = cls(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        head.weight, head.bias = plain.weight, plain.bias
        model.set_output_embeddings(head)
        return head

    def forward(self, input: Tensor) -> Tensor:
        if self.question is None:
            return super().forward(input)
        hidden_1JD, places_N = input, self.question.places_N
        answers_NM = in_chunks(hidden_1JD[0, places_N], self.weight, self.bias, self.question)
        empty = answers_NM.new_zeros(1, hidden_1JD.shape[1], answers_NM.shape[1])
        return empty.index_copy(1, places_N, answers_NM[None])


LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings by which Gemma 2, Cohere and Granite models change logits after the head."""


def logit_settings(config: Any) -> list[str]:
    """Settings of a model by which it changes its logits after the head."""
    return [name for name in LOGIT_SETTINGS if getattr(config, name, None) not in (None, 1.0)]


def positions_at_once(vocabulary: int) -> int:
    """Positions in one chunk."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


def in_chunks(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, question: Question) -> Tensor:
    """The question's measures of every scored position, [N, M] in float32.

    One chunk keeps its graph, which is no larger than a chunk; several are computed again in the backward
    pass.
    """
    head = (weight_VD,) if bias_V is None else (weight_VD, bias_V)
    if len(hidden_ND) <= positions_at_once(len(weight_VD)):
        return _answer(question.measures, question.rows, hidden_ND, *head)
    return _Recomputed.apply(question, hidden_ND, *head)


def _answer(measures: Mapping[str, Measure], rows: Rows, hidden_ND: Tensor, *head: Tensor) -> Tensor:
    """`head` is weight_VD, and bias_V where there is one."""
    logits_NV = linear(hidden_ND, *head)
    if "temperature" in rows:
        logits_NV = logits_NV.float() / rows["temperature"][:, None]
    logp_NV = logits_NV.log_softmax(dim=-1, dtype=torch.float32)
    del logits_NV
    return torch.stack([measure(logp_NV, rows) for measure in measures.values()], dim=-1)


class _Recomputed(torch.autograd.Function):
    """`_answer` chunk by chunk, without the graph of any; the head's gradient is summed in float32."""

    @staticmethod
    def forward(ctx: Any, question: Question, hidden_ND: Tensor, *head: Tensor) -> Tensor:
        ctx.save_for_backward(hidden_ND, *head)
        ctx.question, ctx.autocast = question, _autocast(hidden_ND.device.type)
        pieces = [
            _answer(question.measures, _part_of(question.rows, part), hidden_ND[part], *head)
            for part in _parts(len(hidden_ND), len(head[0]))
        ]
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NM,) = gradients
        hidden_ND, *head = ctx.saved_tensors
        measures, live = _with_gradient(ctx.question.measures, gradient_NM)
        sums = _Sums(hidden_ND, head, ctx.needs_input_grad[1:])
        for part in _parts(len(hidden_ND), len(head[0])) if measures else ():
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                inputs = sums.inputs(part)
                answers_NM = _answer(measures, _part_of(ctx.question.rows, part), *inputs)
            sums.add(part, inputs, answers_NM, gradient_NM[part][:, live])
        return None, *sums.gradients()


class _Sums:
    """Gradients of hidden states and of the head's tensors, those that are needed, filled chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, head: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.tensors, self.needed = (hidden_ND, *head), needed
        kinds = (hidden_ND.dtype, *[torch.float32] * len(head))
        self.sums = [
            torch.zeros_like(tensor, dtype=kind) if need else None
            for tensor, kind, need in zip(self.tensors, kinds, needed, strict=True)
        ]

    def inputs(self, part: slice) -> list[Tensor]:
        """Leaves of one chunk's graph."""
        hidden_ND, *head = self.tensors
        leaves = (hidden_ND[part].detach(), *(tensor.detach() for tensor in head))
        return [leaf.requires_grad_(need) for leaf, need in zip(leaves, self.needed, strict=True)]

    def add(self, part: slice, inputs: Sequence[Tensor], answers_NM: Tensor, gradient_NM: Tensor) -> None:
        """Differentiates one chunk's answers."""
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(answers_NM, wanted, gradient_NM))
        for place, total in enumerate(self.sums):
            if total is not None:
                (total[part] if place == 0 else total).add_(next(found))

    def gradients(self) -> list[Tensor | None]:
        """In the number formats of what was given."""
        return [
            None if total is None else total.to(tensor.dtype)
            for total, tensor in zip(self.sums, self.tensors, strict=True)
        ]


def _with_gradient(
    measures: Mapping[str, Measure], gradient_NM: Tensor
) -> tuple[dict[str, Measure], list[int]]:
    """The measures, with their columns, that the loss reads: the others need no second computation."""
    live = gradient_NM.ne(0).any(dim=0).tolist()
    columns = [column for column, alive in enumerate(live) if alive]
    names = list(measures)
    return {names[column]: measures[names[column]] for column in columns}, columns


def _parts(positions: int, vocabulary: int) -> list[slice]:
    step = positions_at_once(vocabulary)
    return [slice(start, start + step) for start in range(0, positions, step)]


def _part_of(rows: Rows, part: slice) -> Rows:
    return {name: values[part] for name, values in rows.items()}


def _autocast(device: str) -> dict[str, Any]:
    """The forward pass's autocast, which the backward pass, outside of it, computes in again."""
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }
