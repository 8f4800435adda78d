"""`registered`: experts that a config names by their id in the registry, given as what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from configs.blocks.experts import AdapterExpert, Expert, ModelExpert, RegisteredExpert
from configs.schema import MergeConfig
from merging.expert_kinds.kind import ExpertKind, NamedModel
from teachers.models import fingerprint as fp
from teachers.models.adapters import is_adapter
from teachers.registry.local import ExpertRecord, Registry


@dataclass(frozen=True)
class RegisteredByName(ExpertKind):
    """Replaced by a `model` or an `adapter` before any other check, so nothing else knows it."""

    block: RegisteredExpert

    def named_folders(self) -> list[NamedModel]:
        """What it was before its reinforcement learning; it lies in the registry itself."""
        base = self.block.base
        return [] if base is None else [NamedModel(f"{self.place}.base", base, is_prompted=False)]

    def resolved(self, registry: Registry) -> tuple[Expert, ExpertRecord | None]:
        """The record's folder. An expert of a remote registry is fetched; sizes and weights are checked."""
        record = registry.check(registry.fetch(registry.show(self.block.id)))
        return _given(self.config, self.block, record, registry), record


def _given(
    config: MergeConfig, declared: RegisteredExpert, record: ExpertRecord, registry: Registry
) -> Expert:
    if is_adapter(record.model_path):
        _check_adapter(config, declared, record)
        return AdapterExpert(kind="adapter", path=record.model_path)
    base = None
    if config.objective.reference.kind == "teacher_base":
        base = _base(config, declared, record, registry)
    return ModelExpert(kind="model", path=record.model_path, base=base)


def _check_adapter(config: MergeConfig, declared: RegisteredExpert, record: ExpertRecord) -> None:
    if declared.base is not None:
        raise ConfigError(f"base: expert {record.id} is an adapter on the student; leave `base` out")
    student = fp.fingerprint(config.student).weights_sha256
    if record.base_sha256 not in (None, student):
        raise ConfigError(
            f"expert {record.id} is an adapter on other weights than the student's (its base has digest "
            f"{record.base_sha256[:12]}, the student {student[:12]}); valid is an adapter on {config.student}"
        )


def _base(config: MergeConfig, declared: RegisteredExpert, record: ExpertRecord, registry: Registry) -> str:
    """What the expert was before its reinforcement learning: as declared, else what its record leads to."""
    if declared.base is not None:
        found = _digest(declared.base)
        if found is not None and record.base_sha256 not in (None, found):
            raise ConfigError(
                f"base: {declared.base} (weights {found[:12]}) is not what expert {record.id} was made from "
                f"(weights {record.base_sha256[:12]})"
            )
        return declared.base  # where it cannot be read, the check of all models says so
    parents = [r.model_path for r in registry.list() if r.weights_sha256 == record.base_sha256]
    for path in (config.student, (record.base or {}).get("path"), *parents):
        if path is not None and record.base_sha256 is not None and _digest(path) == record.base_sha256:
            return path
    last = (record.base or {}).get("path") or "a model whose place was not recorded"
    raise ConfigError(
        f"objective.reference: teacher_base needs what expert {record.id} was made from: {last} is not there "
        f"with weights {(record.base_sha256 or 'not recorded')[:12]} any more; give `base:`, its folder or "
        "hub name"
    )


def _digest(model: str) -> str | None:
    try:
        return fp.fingerprint(Path(model) if Path(model).is_dir() else model).weights_sha256
    except ConfigError:
        return None
