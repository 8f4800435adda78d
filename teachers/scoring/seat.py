"""A module in which all models of one architecture and size take turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from teachers.models.adapters import Adapters
    from teachers.scoring.staging import Staging

Weights = Mapping[str, "torch.Tensor"]
"""A full model's weights in host memory, by their names in a module without adapters."""


@dataclass
class Seat:
    """A module on the scorer's device, with a full model's weights and its adapters.

    `staging` brings weights to the device; with None the module holds the host's weights themselves.
    """

    module: PreTrainedModel
    settings: dict[str, Any]
    shapes: dict[str, torch.Size]
    adapters: Adapters
    staging: Staging | None
    weights: Weights
    """Of the full model that was taken last."""
    current: str | None
    """The full model whose weights are in the module; None while they are in doubt, or not on the device."""
    places: dict[str, torch.Tensor] | None = None
    """The module's own weights on the device; None where the module holds the host's."""

    def __post_init__(self) -> None:
        """Begins with the host's weights, so that nothing is held on the device."""
        self.adapters.load_full(self.weights, assign=True)
        self.current = self.current if self.staging is None else None

    def take(self, weights: Weights) -> None:
        """Puts a full model's weights into the module; `current` is the caller's to set."""
        self.weights = weights
        if self.staging is None:
            self.adapters.load_full(weights, assign=True)
            return
        if self.places is None:
            self.places = _like(weights, self.staging.device)
            self.adapters.load_full(self.places, assign=True)
        self.staging.copy(weights, self.places)

    def release(self) -> None:
        """Gives back the device's memory of the full model: the module holds the host's weights, which take
        none there. Adapters stay. Nothing to do where the module holds the host's weights anyway."""
        if self.places is not None:
            self.current, self.places = None, None
            self.adapters.load_full(self.weights, assign=True)


def _like(weights: Weights, device: torch.device) -> dict[str, torch.Tensor]:
    """Room on the device for these weights; those that share their memory share it there."""
    import torch

    rooms = {weight.data_ptr(): torch.empty_like(weight, device=device) for weight in weights.values()}
    return {name: rooms[weight.data_ptr()] for name, weight in weights.items()}
