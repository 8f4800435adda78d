"""Packed attention where several ranks share the tokens of one micro-batch (verl's Ulysses).

verl does this for flash-attention only. Every rank has a share of the tokens of all heads; for the attention
it gets all tokens of a share of the heads, by verl's own exchanges.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.models.transformers.monkey_patch import repeat_kv
from verl.utils.ulysses import (
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_group,
    get_ulysses_sequence_parallel_world_size,
)

from trainer.engine.attention import packed_sdpa


def packed_sdpa_over_ranks(
    module: torch.nn.Module,
    query_BHTA: Tensor,
    key_BHTA: Tensor,
    value_BHTA: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """`packed_sdpa`, with all tokens of some heads in place of some tokens of all heads."""
    ranks = get_ulysses_sequence_parallel_world_size()
    if ranks == 1 or position_ids is None:
        return packed_sdpa(
            module, query_BHTA, key_BHTA, value_BHTA, attention_mask, position_ids=position_ids, **more
        )
    repeats = max(ranks // key_BHTA.shape[1], 1)  # each rank needs a key head of its own
    by_token = [states.transpose(1, 2) for states in (query_BHTA, key_BHTA, value_BHTA)]
    by_token[1:] = [repeat_kv(states, repeats) for states in by_token[1:]]
    query, key, value = (
        gather_seq_scatter_heads(states, seq_dim=1, head_dim=2).transpose(1, 2) for states in by_token
    )
    output, _ = packed_sdpa(
        module, query, key, value, attention_mask, position_ids=_all_positions(position_ids, ranks), **more
    )
    return gather_heads_scatter_seq(output, head_dim=2, seq_dim=1), None


def _all_positions(position_ids_1J: Tensor, ranks: int) -> Tensor:
    parts = [torch.empty_like(position_ids_1J) for _ in range(ranks)]
    torch.distributed.all_gather(parts, position_ids_1J, group=get_ulysses_sequence_parallel_group())
    return torch.cat(parts, dim=-1)
