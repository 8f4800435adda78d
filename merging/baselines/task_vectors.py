"""Merges of weights, as functions of state dicts.

`base` and each of `experts` map the same names to floating tensors of the same shapes. Arithmetic and result
are float32, and the arguments are left as they are. A task vector is an expert minus the base. The axes P and
E are those of `merging.exopd.objective`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Weights = Mapping[str, torch.Tensor]
    Merged = dict[str, torch.Tensor]


def average(base: Weights, experts: Sequence[Weights]) -> Merged:
    """The plain mean of the experts; of the base only the names are read."""
    return {name: _sum([expert[name].float() for expert in experts]) / len(experts) for name in base}


def task_arithmetic(base: Weights, experts: Sequence[Weights], scale: float) -> Merged:
    """base + scale * sum of the task vectors (arXiv 2212.04089)."""
    return {name: base[name].float() + scale * _sum(_differences(base, experts, name)) for name in base}


def extrapolation(base: Weights, experts: Sequence[Weights], factor: float) -> Merged:
    """base + factor * (mean of the experts - base): past the mean where factor is above 1.

    After ExPO (arXiv 2404.16792), whose alpha is factor - 1, with the mean as the aligned model.
    """
    return {
        name: base[name].float() + factor * _sum(_differences(base, experts, name)) / len(experts)
        for name in base
    }


def ties(base: Weights, experts: Sequence[Weights], density: float, scale: float) -> Merged:
    """base + scale * disjoint mean of the trimmed task vectors (TIES, arXiv 2306.01708).

    Trim: each task vector keeps its share `density` (in (0, 1]) of largest magnitudes, over all its weights
    together, at least one, and all that equal the smallest kept one; the others become 0. Elect: each weight
    takes the sign of the sum of its trimmed entries. Disjoint mean: over the entries other than 0 that have
    that sign. A weight whose entries sum to 0, or are all 0, stays the base's.
    """
    import torch

    thresholds = [_smallest_kept(base, expert, density) for expert in experts]
    merged = {}
    for name in base:
        differences_EP = torch.stack(_differences(base, experts, name))
        for difference_P, threshold in zip(differences_EP, thresholds, strict=True):
            difference_P[difference_P.abs() < threshold] = 0
        elected_P = differences_EP.sum(dim=0).sign()
        # entries of 0 agree only where 0 is elected, and add nothing there
        agreeing_EP = differences_EP.sign() == elected_P
        mean_P = (differences_EP * agreeing_EP).sum(dim=0) / agreeing_EP.sum(dim=0).clamp(min=1)
        merged[name] = base[name].float() + scale * mean_P
    return merged


def dare(base: Weights, experts: Sequence[Weights], drop_rate: float, scale: float, seed: int) -> Merged:
    """base + scale * mean of the task vectors with dropped entries (DARE, arXiv 2311.03099).

    Each entry is set to 0 with probability `drop_rate` (in [0, 1)), else divided by 1 - drop_rate, which
    keeps its expectation. The vectors are then combined by their plain mean, dropped entries counted as 0;
    the paper also combines them by other merges. Drawn on the CPU, by name and then by expert.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    merged = {}
    for name in base:
        kept = [
            difference_P * (torch.rand(difference_P.shape, generator=generator) >= drop_rate)
            for difference_P in _differences(base, experts, name)
        ]
        merged[name] = base[name].float() + scale * _sum(kept) / (len(experts) * (1 - drop_rate))
    return merged


def _differences(base: Weights, experts: Sequence[Weights], name: str) -> list[torch.Tensor]:
    """Each task vector's tensor of this name, difference_P."""
    start_P = base[name].float()
    return [expert[name].float() - start_P for expert in experts]


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return sum(tensors, start=torch.zeros(()))


def _smallest_kept(base: Weights, expert: Weights, density: float) -> float:
    """The magnitude of a task vector's k-th largest entry, k being the share `density` of all."""
    import torch

    sizes = {name: tensor.numel() for name, tensor in base.items()}
    magnitudes_P = torch.empty(sum(sizes.values()))
    # filled and sorted in place: torch.kthvalue would take four times the memory
    for name, part_P in zip(sizes, magnitudes_P.split(list(sizes.values())), strict=True):
        part_P.copy_(_differences(base, [expert], name)[0].abs().flatten())
    place = len(magnitudes_P) - max(1, round(density * len(magnitudes_P)))
    values = magnitudes_P.numpy()
    values.partition(place)
    return float(values[place])
