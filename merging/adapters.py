"""Experts that are adapters: checked against the student, and made a full model where one is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from configs.experts import AdapterExpert, RLExpert
from configs.load import ConfigError
from configs.schema import MergeConfig
from teachers import adapters
from teachers.fingerprint import ModelFingerprint
from teachers.registry import open_registry


def adapter_experts(config: MergeConfig, student: ModelFingerprint) -> dict[str, ModelFingerprint]:
    """By domain: the student's fingerprint with the adapter's weights digest, own parameters and folder.

    Raises ConfigError with every problem of every adapter; each names its place in the config.
    """
    found, problems = {}, []
    for name, domain in config.domains.items():
        if not isinstance(domain.expert, AdapterExpert):
            continue
        place = f"domains.{name}.expert"
        try:
            own = adapters.fingerprint(domain.expert.path)
        except ConfigError as error:
            problems += [f"{place}: {problem}" for problem in error.problems]
            continue
        try:
            adapters.check_adapter(student, own, place)
        except ConfigError as error:
            problems += error.problems
        found[name] = replace(
            student, weights_sha256=own.weights_sha256, parameters=own.parameters, path=own.path
        )
    if problems:
        raise ConfigError(*problems)
    return found


def adapter_parameters(config: MergeConfig, models: Mapping[str, ModelFingerprint]) -> dict[str, int]:
    """Weights of each domain's adapter, given or still to be trained; domains with full models have none."""
    found = {}
    for name, domain in config.domains.items():
        if isinstance(domain.expert, AdapterExpert) and name in models:
            found[name] = models[name].parameters
        elif isinstance(domain.expert, RLExpert) and domain.expert.lora_rank is not None:
            found[name] = adapters.lora_parameters(models["student"], domain.expert.lora_rank)
    return found


def full_model(config: MergeConfig, path: str) -> str:
    """Folder of the expert at `path` as a full model: the path itself, or what an adapter makes of the
    student, kept in the registry."""
    if not adapters.is_adapter(path):
        return path
    return str(adapters.merged_model(config.student, path, open_registry(config.registry)))
