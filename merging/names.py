"""Names that the config, the scorer, verl's teacher entries and the plug-ins share."""

REFERENCE = "reference"
"""The reference among the scored models; no domain may be called so."""

LOSS_NAME, DISTRIBUTION_LOSS_NAME = "exopd", "exopd_distribution"
"""Losses of `merging.verl_plugin`."""

DISTRIBUTION_MODEL_TYPE = "exopd_language_model"
"""Model type whose engine `merging.distribution_engine` registers."""


def reference_names(references: dict[str, str], student: str) -> dict[str, str]:
    """Name of each domain's reference among the scored models, for {domain: model path}.

    The student's is `reference`; others are numbered behind it, equal paths alike. A domain's name holds no
    colon, so no teacher can be called so.
    """
    names = {student: REFERENCE}
    for path in references.values():
        names.setdefault(path, f"{REFERENCE}:{len(names)}")
    return {domain: names[path] for domain, path in references.items()}
