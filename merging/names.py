"""Names that the config, the scorer and verl's teacher entries share."""

REFERENCE = "reference"
"""The reference among the scored models; no domain may be called so."""
