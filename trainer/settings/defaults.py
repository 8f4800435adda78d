"""verl's own configuration, composed from its YAML files without importing verl, whose import takes torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

PPO, SFT = "ppo_trainer", "sft_trainer_engine"
"""Configurations of verl's two trainers: merge, experts and most baselines; the baseline `sft`."""


def package_folder() -> Path:
    """The folder of the installed package verl, found without importing it."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None and spec.submodule_search_locations, "verl is not installed"
    return Path(next(iter(spec.submodule_search_locations)))


def default_config(trainer: str) -> DictConfig:
    """verl's defaults (`PPO` or `SFT`), with interpolations intact; a copy that may be changed."""
    return deepcopy(_composed(trainer))


def default_tree(trainer: str) -> dict[str, Any]:
    """The defaults as nested mappings, interpolations as they are written; not to be changed."""
    return _tree(trainer)


def default_values(trainer: str) -> dict[str, Any]:
    """The defaults by dotted key."""
    return flat(_tree(trainer))


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of nested mappings by its dotted path; an empty mapping is a leaf."""
    if isinstance(value, Mapping) and value:
        below = [flat(leaf, f"{path}.{name}") for name, leaf in value.items()]
        return {key: leaf for part in below for key, leaf in part.items()}
    return {path.removeprefix("."): value}


@cache
def _composed(trainer: str) -> DictConfig:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(package_folder() / "trainer" / "config"), version_base=None):
        return compose(config_name=trainer)


@cache
def _tree(trainer: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(_composed(trainer), resolve=False)
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items()}
