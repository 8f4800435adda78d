"""The lambdas that a run's probe chose, as its folder keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired

from pydantic import FiniteFloat, NonNegativeFloat
from typing_extensions import TypedDict

from common.reading import read_json
from configs.blocks.objective import DomainObjective
from configs.schema import MergeConfig


class StoredAnswers(TypedDict):
    """As `merging.training.probe.Answered.to_json` has it."""

    accuracy: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat]
    answers: int
    length: FiniteFloat
    finish_rate: FiniteFloat


class StoredResult(StoredAnswers):
    """As `merging.training.probe.ProbeResult.to_json` has it; earlier versions kept less."""

    domain: str
    reward_scale: NonNegativeFloat
    prompts: int
    temperature: NotRequired[FiniteFloat]
    greedy: NotRequired[StoredAnswers]


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


def has_both_decodings(choice: StoredChoice) -> bool:
    """Whether it was made by sampled and greedy answers; earlier versions had sampled ones alone."""
    return all("greedy" in result for result in choice["curve"])


def valid_choices(run: Path) -> dict[str, StoredChoice]:
    """Those that a run goes by: made by both decodings, or else those whose lambdas its rows were written
    with, since the student may be trained on them already."""
    written = (run / "prompts" / "train.parquet").exists()
    return {
        domain: choice
        for domain, choice in read_choices(run).items()
        if written or has_both_decodings(choice)
    }


def with_chosen(config: MergeConfig, run: Path) -> MergeConfig:
    """The config with what an earlier probe of this run chose in place of `auto`."""
    chosen: Mapping[str, float] = {
        domain: choice["reward_scale"]
        for domain, choice in valid_choices(run).items()
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
