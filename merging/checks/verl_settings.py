"""The config's own settings of verl's: each must be one that verl knows and that Protege does not set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from common.errors import ConfigError
from configs.schema import MergeConfig, Training
from configs.verl_settings import dotted
from merging.checks.found import Preflight
from merging.expert_kinds.kinds import experts_of
from trainer.settings.check import Settings, problems
from trainer.settings.check import Training as Trained

TRAININGS: Mapping[str, Trained] = {"sft": "sft", "grpo": "grpo"}
"""Which of verl's trainings a baseline with settings of its own is."""


def verl_settings(found: Preflight) -> None:
    """Refuses settings that cannot be passed on, each with one message."""
    # verl's configuration is composed where there are any, without importing verl
    wrong = [problem for settings in declared(found.config) for problem in problems(settings)]
    if wrong:
        raise ConfigError(*wrong)


def declared(config: MergeConfig) -> Iterator[Settings]:
    """The settings of every training that has some of its own."""
    yield Settings("verl", "merge", dotted(config.verl), fields=Training.model_fields)
    if config.polish is not None:
        fields = type(config.polish).model_fields
        yield Settings("polish.verl", "polish", dotted(config.polish.verl), "polish", fields)
    for expert in experts_of(config).values():
        if expert.is_built:
            fields = type(expert.block).model_fields
            own = dotted(expert.block.verl)
            yield Settings(f"{expert.place}.verl", "expert", own, expert.place, fields)
    for baseline in config.trained_baselines():
        block, fields = f"baselines.{baseline.kind}", type(baseline).model_fields
        if "verl" in fields:
            own = dotted(getattr(baseline, "verl"))  # noqa: B009  of those kinds that have some
            yield Settings(f"{block}.verl", TRAININGS[baseline.kind], own, block, fields)
