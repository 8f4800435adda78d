"""What a run asks of the expert of a domain, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from configs.blocks.experts import Expert
from configs.schema import MergeConfig
from merging.state.cluster import Cluster
from merging.state.measure import Measured
from merging.state.planned import PlannedStage
from routing.routers.decisions import RoutedPrompt
from teachers.models.fingerprint import ModelFingerprint
from teachers.registry.local import ExpertRecord, Registry

Models = Mapping[str, ModelFingerprint]
"""Fingerprints by key: `student`, a domain's name for an expert that is given, `base of <domain>` for what an
expert was before its reinforcement learning, `reference` for a reference of its own."""


def base_key(domain: str) -> str:
    """Key of the fingerprint of the model that a domain's expert was before its reinforcement learning."""
    return f"base of {domain}"


@dataclass(frozen=True)
class NamedModel:
    """A full model as the config names it."""

    place: str
    path: str
    is_prompted: bool = True
    """Whether it, or an expert made from it, ever answers a prompt; else it only reads token ids."""


@dataclass(frozen=True)
class ExpertKind:
    """The expert of one domain. The defaults here are right for a full model that already exists."""

    config: MergeConfig
    domain: str
    block: Any
    """The domain's `expert` in the config."""
    prompts: tuple[RoutedPrompt, ...] = ()
    """The domain's prompts, where they are routed."""
    record: ExpertRecord | None = None
    """Its record, if the config names it by its id in the registry."""

    is_built: ClassVar[bool] = False
    """Whether it is trained here, on prompts of its domain and by its reward."""

    @property
    def has_weights(self) -> bool:
        """Whether its weights are, or will be, on this machine."""
        return True

    @property
    def is_served(self) -> bool:
        """Whether a server reads the rollouts, so that the scorer does not hold it."""
        return False

    @property
    def place(self) -> str:
        """Where the config declares it."""
        return f"domains.{self.domain}.expert"

    # --------------------------------------------------------------------------------------- checks

    def resolved(self, registry: Registry) -> tuple[Expert, ExpertRecord | None]:
        """The block that takes its place, of a kind that needs no look-up, and the record that was looked up.

        Raises ConfigError, without the place.
        """
        return self.block, None

    def named_models(self) -> dict[str, NamedModel]:
        """The full models that the config names for it, by key; they are checked against the student."""
        return {}

    def named_folders(self) -> list[NamedModel]:
        """The models and adapters that the config names for it, which may have to be downloaded."""
        return list(self.named_models().values())

    def own_fingerprint(self, student: ModelFingerprint) -> ModelFingerprint | None:
        """The fingerprint of an expert that is given, but not as a full model.

        Raises ConfigError if it does not fit the student.
        """
        return None

    def reads(self, item: RoutedPrompt) -> bool:
        """Whether it is built on this prompt of its domain."""
        return False

    @property
    def rollouts_per_step(self) -> int | None:
        """Rollouts per step of its training; None if it is not built."""
        return None

    @property
    def response_tokens(self) -> int | None:
        """Rollout length limit of its training, if it has one of its own."""
        return None

    # ---------------------------------------------------------------------------------------- sizes

    def shaped_like(self, models: Models) -> tuple[str, ModelFingerprint]:
        """The model whose tensor shapes it has, behind that model's place in the config."""
        return self.place, models.get(self.domain, models["student"])

    def parameters(self, models: Models) -> int:
        """Its size as a full model."""
        return self.shaped_like(models)[1].parameters

    def adapter_parameters(self, models: Models) -> int | None:
        """Its size as an adapter on the student; None if it is a full model."""
        return None

    def exported_parameters(self, models: Models) -> int:
        """Size of the full model that has to be written to disk for it."""
        return self.parameters(models) if self.is_built else 0

    # --------------------------------------------------------------------------------------- making

    def planned(self, registry: Registry) -> PlannedStage:
        """What is left to do for it."""
        return PlannedStage(f"expert {self.domain}", "found in the registry" if self.record else "given")

    def find(self, registry: Registry) -> ExpertRecord | None:
        """Its record, with its files checked; None if it is the user's own, or not built yet.

        Raises ConfigError if the files are not those recorded.
        """
        return self.record

    def build(self, registry: Registry, cluster: Cluster, measured: Measured) -> ExpertRecord:
        """Builds it, or continues a stopped build; raises common.errors.RunFailed."""
        raise NotImplementedError
