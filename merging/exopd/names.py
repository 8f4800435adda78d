"""Names that the config, the scorer, verl's teacher entries and the plug-ins share."""

from configs.schema import MergeConfig
from configs.served import REFERENCE

LOSS_NAME, DISTRIBUTION_LOSS_NAME = "exopd", "exopd_distribution"
"""Losses of `merging.exopd.loss`."""

DISTRIBUTION_MODEL_TYPE = "exopd_language_model"
"""Model type whose engine `merging.exopd.engine` registers."""


CLIP_COLUMN, GATE_COLUMN, REWARD_WEIGHT_COLUMN = "clip_log_ratio", "verifier_gates", "verifier_weight"
"""Further columns of a training file: the largest |T - B| of the row's tokens, whether its reward gates its
advantages (1 or 0), and the factor of the advantage that its reward adds. Each is there where it is used."""


def row_columns(config: MergeConfig) -> dict[str, dict[str, float]]:
    """Those of this merge, by name, with each domain's value."""
    clip, declared = config.objective.clip_log_ratio, {d: config.verifiable_of(d) for d in config.domains}
    gates = {domain: float(own.kind == "gate") for domain, own in declared.items()}
    weights = {domain: own.weight if own.kind == "add" else 0.0 for domain, own in declared.items()}
    columns = {GATE_COLUMN: gates, REWARD_WEIGHT_COLUMN: weights}
    used = {name: values for name, values in columns.items() if any(values.values())}
    return used if clip is None else {CLIP_COLUMN: dict.fromkeys(declared, clip), **used}


START = "start of the training"
"""Key of the model that `training.start` names; a domain's name holds no space."""


def measures_start(config: MergeConfig, domain: str) -> bool:
    """Whether start and reference of this domain are different models that one device of this run holds, as
    that of the shared scorer does: then their distance is measured before the training."""
    if config.training.start.kind == "student" or config.starts_from(config.reference_of(domain)):
        return False
    return config.scorer.kind == "shared" and REFERENCE not in config.served()


def with_shared_scorer(mode: str) -> str:
    """Name in verl's registry of a trainer of that mode that starts the shared scorer."""
    return f"shared_scorer_{mode}"


def reference_names(references: dict[str, str], student: str) -> dict[str, str]:
    """Name of each domain's reference among the scored models, for {domain: model path}.

    The student's is `reference`; others are numbered behind it, equal paths alike. A domain's name holds no
    colon, so no teacher can be called so.
    """
    names = {student: REFERENCE}
    for path in references.values():
        names.setdefault(path, f"{REFERENCE}:{len(names)}")
    return {domain: names[path] for domain, path in references.items()}


def references(config: MergeConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Name of each domain's reference, and the models {name: path} that are read as one.

    A reference that a server reads is `reference`, whatever model it is.
    """
    paths = {name: config.reference_of(name) for name in config.domains}
    if REFERENCE in config.served():
        return dict.fromkeys(paths, REFERENCE), dict.fromkeys([REFERENCE], next(iter(paths.values())))
    names = reference_names(paths, config.student)
    return names, {names[domain]: path for domain, path in paths.items()}
