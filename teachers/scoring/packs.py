"""Rollouts packed one after another into one row without padding, and such rows in groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from teachers.scoring.scored import Scored

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Pack = list[int]
"""Places of some sequences among all."""


def in_packs(sequences: Sequence[Scored], tokens: int) -> list[Pack]:
    """Packs of at most so many tokens, in order; a longer sequence is alone."""
    return _filled([(place, len(sequence.token_ids)) for place, sequence in enumerate(sequences)], tokens)


def in_waves(packs: Sequence[Pack], sequences: Sequence[Scored], positions: int) -> list[list[Pack]]:
    """Packs in groups that score at most so many positions, in order; a larger pack is alone."""
    scored = (sum(sequences[place].response_tokens for place in pack) for pack in packs)
    return _filled(list(zip(packs, scored, strict=True)), positions)


def packed(
    sequences: Sequence[Scored], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids_J, positions_J within each sequence, and places_N: where among them responses are scored."""
    import torch

    def tensor(values: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=device)

    starts = accumulate((len(sequence.token_ids) for sequence in sequences[:-1]), initial=0)
    return (
        tensor(token for sequence in sequences for token in sequence.token_ids),
        tensor(position for sequence in sequences for position in range(len(sequence.token_ids))),
        tensor(
            start + position
            for start, sequence in zip(starts, sequences, strict=True)
            for position in sequence.scoring_positions
        ),
    )


def _filled(items: list[tuple[Item, int]], limit: int) -> list[list[Item]]:
    """Items with their sizes, in order, in groups whose sizes add up to the limit at most."""
    groups: list[list[Item]] = []
    room = 0
    for item, size in items:
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(item)
        room -= size
    return groups
