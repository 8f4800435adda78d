"""Experts that a config names by their id in the registry: found, checked, and given as what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from configs.experts import AdapterExpert, Expert, ModelExpert, RegisteredExpert
from configs.load import ConfigError
from configs.schema import MergeConfig
from teachers import fingerprint as fp
from teachers.adapters import is_adapter
from teachers.records import ExpertRecord
from teachers.registry import Registry, open_registry


@dataclass(frozen=True)
class Registered:
    """By domain: the records of registry experts, and the same experts as models or adapters with paths."""

    records: dict[str, ExpertRecord] = field(default_factory=dict)
    experts: dict[str, Expert] = field(default_factory=dict)

    def resolved(self, config: MergeConfig) -> MergeConfig:
        """The config with each of these experts given by its folder."""
        domains = {
            name: domain.model_copy(update={"expert": self.experts.get(name, domain.expert)})
            for name, domain in config.domains.items()
        }
        return config.model_copy(update={"domains": domains})

    def notes(self) -> list[str]:
        """What the user should know about them."""
        return [
            f"domains.{domain}.expert: {record.id} was {record.kind} for domain {record.domain!r}"
            for domain, record in self.records.items()
            if record.domain != domain
        ]


def find_registered(config: MergeConfig, problems: list[str]) -> Registered:
    """All registry experts of a config; what is wrong with them, or with the registry, goes to `problems`.

    Experts of a remote registry are fetched. Their sizes and the digest of their weights are checked.
    """
    found = Registered()
    try:
        registry = open_registry(config.registry)
    except ConfigError as error:
        problems += error.problems
        return found
    for name, domain in config.domains.items():
        if not isinstance(domain.expert, RegisteredExpert):
            continue
        try:
            record = registry.check(registry.fetch(registry.show(domain.expert.id)))
            found.experts[name] = _given(config, domain.expert, record, registry)
            found.records[name] = record
        except ConfigError as error:
            problems += [f"domains.{name}.expert: {problem}" for problem in error.problems]
    return found


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
