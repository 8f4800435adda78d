"""`served`: experts that a server holds; a folder of the same model is optional."""

from __future__ import annotations

from dataclasses import dataclass

from configs.blocks.experts import ServedExpert
from merging.expert_kinds.kind import ExpertKind, NamedModel, base_key


@dataclass(frozen=True)
class ServedTeacher(ExpertKind):
    """Read by its server; all else is that of the full model in its folder, where one is given."""

    block: ServedExpert

    @property
    def has_weights(self) -> bool:
        return self.block.path is not None

    @property
    def is_served(self) -> bool:
        return True

    def named_models(self) -> dict[str, NamedModel]:
        found = {}
        if self.block.path is not None:
            found[self.domain] = NamedModel(f"{self.place}.path", self.block.path)
        if self.block.base is not None:
            found[base_key(self.domain)] = NamedModel(
                f"{self.place}.base", self.block.base, is_prompted=False
            )
        return found
