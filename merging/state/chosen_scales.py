"""The lambdas that a run's probe chose, as its folder keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import FiniteFloat, NonNegativeFloat
from typing_extensions import TypedDict

from common.reading import read_json
from configs.blocks.objective import DomainObjective
from configs.schema import MergeConfig


class StoredResult(TypedDict):
    """As `merging.training.probe.ProbeResult.to_json` has it."""

    domain: str
    reward_scale: NonNegativeFloat
    accuracy: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat]
    prompts: int
    answers: int
    length: FiniteFloat
    finish_rate: FiniteFloat


class StoredChoice(TypedDict):
    """As `merging.training.reward_scales.Choice.to_json` has it."""

    reward_scale: NonNegativeFloat
    reason: str
    curve: list[StoredResult]


def probe_file(run: Path) -> Path:
    """Where a run keeps its probe and what was chosen from it."""
    return run / "probe.json"


def read_choices(run: Path) -> dict[str, StoredChoice]:
    """What was chosen by domain; empty where nothing was automatic."""
    path = probe_file(run)
    return read_json(path, dict[str, StoredChoice], "the record of a probe") if path.exists() else {}


def with_chosen(config: MergeConfig, run: Path) -> MergeConfig:
    """The config with what an earlier probe of this run chose in place of `auto`."""
    chosen: Mapping[str, float] = {
        domain: choice["reward_scale"]
        for domain, choice in read_choices(run).items()
        if domain in config.domains and config.reward_scale_of(domain) is None
    }
    return with_scales(config, chosen)


def with_scales(config: MergeConfig, chosen: Mapping[str, float]) -> MergeConfig:
    """The config with these lambdas in place of `auto`, by domain."""
    domains = dict(config.domains)
    for name, scale in chosen.items():
        objective = domains[name].objective or DomainObjective()
        own = objective.model_copy(update={"reward_scale": scale})
        domains[name] = domains[name].model_copy(update={"objective": own})
    return config.model_copy(update={"domains": domains})
