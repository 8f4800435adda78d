"""verl's composed configuration as plain values, for the tests of what reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest

from trainer.job import TrainingJob
from trainer.overrides import verl_config


@contextmanager
def composed_once() -> Iterator[None]:
    """verl's defaults are read from its files once while the block lasts: each reading takes a second."""
    import hydra

    compose, defaults = hydra.compose, []

    def cached(**arguments: Any):
        if not defaults:
            defaults.append(compose(**arguments))
        return deepcopy(defaults[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra, "compose", cached)
        yield


def verl_values(job: TrainingJob) -> dict[str, Any]:
    """Every leaf of the job's configuration by its dotted path, interpolations as they are written."""
    return leaves(verl_config(job, "metrics"))


def leaves(config: Any) -> dict[str, Any]:
    """Every leaf of an OmegaConf configuration by its dotted path."""
    from omegaconf import OmegaConf

    return _flat(OmegaConf.to_container(config, resolve=False))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        below = [_flat(leaf, f"{path}.{name}") for name, leaf in value.items()]
        return {key: leaf for part in below for key, leaf in part.items()}
    return {path.removeprefix("."): value}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is new or has another value; None stands for what has gone."""
    keys = sorted(before.keys() | after.keys())
    return {key: after.get(key) for key in keys if before.get(key, "absent") != after.get(key, "absent")}
