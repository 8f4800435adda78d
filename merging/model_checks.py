"""Which models a config names, whether they fit together, and how large they are.

Fingerprints are kept under keys: `student`, a domain's name for an expert that is given, `base of <domain>`
for what an expert was before its reinforcement learning, `reference` for a reference of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from configs.experts import ModelExpert, RLExpert
from configs.load import ConfigError
from configs.objective import ModelReference
from configs.schema import MergeConfig
from merging.adapters import adapter_experts, adapter_parameters
from merging.names import REFERENCE
from teachers.fingerprint import ModelFingerprint

Models = Mapping[str, ModelFingerprint]
"""Fingerprints by key."""


@contextmanager
def collecting(problems: list[str]) -> Iterator[None]:
    """Adds a ConfigError's messages to `problems`, so that the next check is made too."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


# ------------------------------------------------------------------------------------ do they fit


@dataclass(frozen=True)
class _Declared:
    """One model as the config names it."""

    place: str
    path: str
    is_prompted: bool = True
    """Whether it, or an expert made from it, ever answers a prompt; else it only reads token ids."""


def base_key(domain: str) -> str:
    """Key of the fingerprint of the model that a domain's expert was before its reinforcement learning."""
    return f"base of {domain}"


def _declared(config: MergeConfig) -> dict[str, _Declared]:
    """Every model that the config names, by key."""
    models = {"student": _Declared("student", config.student)}
    for name, domain in config.domains.items():
        place, expert = f"domains.{name}.expert", domain.expert
        if isinstance(expert, ModelExpert):
            models[name] = _Declared(place, expert.path)
        if isinstance(expert, ModelExpert | RLExpert) and expert.base is not None:
            models[base_key(name)] = _Declared(f"{place}.base", expert.base, isinstance(expert, RLExpert))
    reference = config.objective.reference
    if isinstance(reference, ModelReference):
        models[REFERENCE] = _Declared("objective.reference", reference.path, is_prompted=False)
    return models


def check_models(config: MergeConfig, problems: list[str]) -> dict[str, ModelFingerprint]:
    """Fingerprints of all models that the config names; what is wrong with them goes to `problems`."""
    from teachers import fingerprint as fp

    models = _declared(config)
    found: dict[str, ModelFingerprint] = {}
    for key, model in models.items():
        try:
            found[key] = fp.fingerprint(model.path)
        except ConfigError as error:
            problems += [f"{model.place}: {problem}" for problem in error.problems]
    rl = [domain.expert for domain in config.domains.values() if isinstance(domain.expert, RLExpert)]
    own = [expert.max_response_tokens for expert in rl if expert.max_response_tokens]
    longest = max(config.training.max_response_tokens, config.evaluation_tokens(), *own)
    for key, model in found.items():
        place = models[key].place
        with collecting(problems):
            fp.check_vocabulary(model, place)
        with collecting(problems):
            fp.check_context(model, config.training.max_prompt_tokens, longest, place)
        if key != "student" and "student" in found:
            check = fp.check_compatible if models[key].is_prompted else fp.check_reference
            with collecting(problems):
                check(found["student"], model, place)
    if "student" in found:
        with collecting(problems):
            found |= adapter_experts(config, found["student"])
        with collecting(problems):
            _check_weight_baselines(config, found)
    return found


def _check_weight_baselines(config: MergeConfig, models: Models) -> None:
    """Merging weights needs tensors of the same names and shapes."""
    kinds = [baseline.kind for baseline in config.weight_baselines()]
    if not kinds:
        return
    student, rest = models["student"], [b.kind for b in config.baselines if b.kind not in kinds]
    named, verb = ", ".join(f"`{kind}`" for kind in kinds), "needs" if len(kinds) == 1 else "need"
    for name, domain in config.domains.items():
        built = isinstance(domain.expert, RLExpert)
        place = f"domains.{name}.expert" + (".base" if built else "")
        model = models.get(base_key(name) if built else name, student)
        known = None not in (student.shapes_sha256, model.shapes_sha256)
        if known and model.shapes_sha256 != student.shapes_sha256:
            raise ConfigError(
                f"baselines: {named} {verb} experts of the student's shape, and {place} "
                f"({model.path}) has other tensors; leave {named} out (baselines: [{', '.join(rest)}])"
            )


# -------------------------------------------------------------------------------------- how large


def built_parameters(config: MergeConfig, models: Models) -> dict[str, int]:
    """Size of every expert that is built here, by domain: that of its base."""
    student = models["student"]
    built = [name for name, domain in config.domains.items() if isinstance(domain.expert, RLExpert)]
    return {name: models.get(base_key(name), student).parameters for name in built}


def scored_parameters(config: MergeConfig, models: Models) -> int:
    """Sizes of all teachers, and of each model that is read as a reference, together.

    Adapters count as adapters; they lie on the student, whether it is read itself or not.
    """
    student, built = models["student"], built_parameters(config, models)
    adapters = adapter_parameters(config, models)
    full = [name for name in config.domains if name not in adapters]
    teachers = [built.get(name) or models.get(name, student).parameters for name in full]
    keys = {model.path: key for key, model in _declared(config).items()} | {config.student: "student"}
    read = {keys[config.reference_of(name)] for name in config.domains} | ({"student"} if adapters else set())
    references = [models.get(key, student).parameters for key in read]
    return sum(teachers) + sum(adapters.values()) + sum(references)
