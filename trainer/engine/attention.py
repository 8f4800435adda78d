"""Attention over packed sequences: many of them, one after another, in one row without padding.

Two implementations keep a position from seeing another sequence:

- `flash_attention_2`, of the package flash-attn, where that is installed and the device is CUDA;
- `packed_sdpa`, registered here with transformers, everywhere else: torch's own
  `scaled_dot_product_attention`, called once for each sequence. On CUDA torch runs its built-in flash kernel
  for each call.

transformers' own `sdpa` packs too, with a mask of [tokens, tokens]: 1 GiB at 32,768 tokens, and on a CPU 4.6
times the time of separate sequences (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.digests import installed_version

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLASH, PACKED = "flash_attention_2", "packed_sdpa"
"""Values of `attn_implementation`."""


def attention_of(device: str, number_format: str = "bfloat16") -> str:
    """The implementation that trainings and the shared scorer use on this device (`cpu` or `cuda`).

    `number_format` is that of the computation; flash-attention has no kernels for float32.
    """
    served = device == "cuda" and number_format in ("bfloat16", "float16")
    return FLASH if served and installed_version("flash-attn") else PACKED


def register_packed(attention: Callable[..., Any] | None = None) -> None:
    """Makes `packed_sdpa`, or a function that extends it, known to transformers in this process.

    Without one, what is known already stays: in a trainer's process that serves several ranks.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if attention is None and PACKED in AttentionInterface().valid_keys():
        return
    AttentionInterface.register(PACKED, attention or packed_sdpa)
    AttentionMaskInterface.register(PACKED, _packed_mask)


def packed_sdpa(
    module: torch.nn.Module,
    query_BHTA: Tensor,
    key_BHTA: Tensor,
    value_BHTA: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: Tensor | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a packed row, [1, J, H, A].

    A sequence begins where `position_ids` [1, J] are 0. Batches of several rows, and those with a mask,
    go to transformers' `sdpa`. Takes and returns what transformers' attention functions do. Raises ValueError
    for a model that does not tell its attention the positions: its sequences could not be kept apart.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None or len(query_BHTA) > 1:
        return sdpa_attention_forward(
            module, query_BHTA, key_BHTA, value_BHTA, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    if position_ids is None:
        raise ValueError(
            f"{type(module).__name__} does not pass position_ids to its attention, so packed sequences would "
            f"see one another; {PACKED} serves models that do"
        )

    lengths = sequence_lengths(position_ids)
    parts = (states.split(lengths, dim=2) for states in (query_BHTA, key_BHTA, value_BHTA))
    outputs = [
        _one_sequence(query, key, value, dropout, scaling, sliding_window)
        for query, key, value in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def sequence_lengths(position_ids_1J: Tensor) -> list[int]:
    """Tokens of each packed sequence, in order."""
    starts = (position_ids_1J[0] == 0).nonzero().squeeze(1).tolist()
    stops = [*starts[1:], position_ids_1J.shape[1]]
    return [stop - start for start, stop in zip(starts, stops, strict=True)]


def _one_sequence(
    query_1HTA: Tensor,
    key_1HTA: Tensor,
    value_1HTA: Tensor,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    mask_TT = _window(query_1HTA, sliding_window)
    return scaled_dot_product_attention(
        query_1HTA,
        key_1HTA,
        value_1HTA,
        attn_mask=mask_TT,
        is_causal=mask_TT is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=key_1HTA.shape[1] != query_1HTA.shape[1],
    )


def _window(query_1HTA: Tensor, width: int | None) -> Tensor | None:
    """Which positions see which, [tokens, tokens], where a sequence is longer than the sliding window."""
    import torch

    tokens = query_1HTA.shape[2]
    if width is None or tokens <= width:
        return None
    place_T = torch.arange(tokens, device=query_1HTA.device)
    back_TT = place_T[:, None] - place_T
    return (back_TT >= 0) & (back_TT < width)


def _packed_mask(*arguments: Any, attention_mask: Tensor | None = None, **more: Any) -> Tensor | None:
    """No mask for packed sequences, whose lengths `packed_sdpa` reads; for padded ones that of `sdpa`."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None:
        return None
    return sdpa_mask(*arguments, attention_mask=attention_mask, **more)
