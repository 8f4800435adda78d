"""Experts that the user has: `model`, a full model, and `adapter`, a LoRA adapter on the student."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.errors import ConfigError
from configs.blocks.experts import AdapterExpert, ModelExpert
from merging.expert_kinds.kind import ExpertKind, Models, NamedModel, base_key
from teachers.models import adapters
from teachers.models.fingerprint import ModelFingerprint


@dataclass(frozen=True)
class GivenModel(ExpertKind):
    """A full model; its base, where declared, is only read."""

    block: ModelExpert

    def named_models(self) -> dict[str, NamedModel]:
        found = {self.domain: NamedModel(self.place, self.block.path)}
        if self.block.base is not None:
            found[base_key(self.domain)] = NamedModel(
                f"{self.place}.base", self.block.base, is_prompted=False
            )
        return found


@dataclass(frozen=True)
class GivenAdapter(ExpertKind):
    """An adapter; a full model is made of it and the student where one is needed."""

    block: AdapterExpert

    def named_folders(self) -> list[NamedModel]:
        return [NamedModel(self.place, self.block.path)]

    def own_fingerprint(self, student: ModelFingerprint) -> ModelFingerprint:
        """The student's, with the adapter's weights digest, own parameters and folder."""
        try:
            own = adapters.fingerprint(self.block.path)
        except ConfigError as error:
            raise ConfigError(*(f"{self.place}: {problem}" for problem in error.problems)) from None
        adapters.check_adapter(student, own, self.place)
        return replace(student, weights_sha256=own.weights_sha256, parameters=own.parameters, path=own.path)

    def adapter_parameters(self, models: Models) -> int | None:
        return models[self.domain].parameters if self.domain in models else None

    def exported_parameters(self, models: Models) -> int:
        return models["student"].parameters
