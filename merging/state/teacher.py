"""The expert of one domain, as the stages after it need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Teacher:
    """The expert of one domain, wherever it comes from."""

    domain: str
    model_path: str | None
    """The folder of the full model; None for one that a server holds and no folder is given of."""
    weights_sha256: str
    """Over its weight files; over the log-probabilities of the canary, where there is no folder."""
    record_id: str | None
    """Its id in the registry; None for the user's own."""
    adapter_path: str | None = None
    """The adapter's folder where it is one; `model_path` then holds it and the student as one model."""
    served: str | None = None
    """The server that reads for it, in words; None where none does."""

    @property
    def folder(self) -> str:
        """Its model's folder, for what the checks refuse where there is none."""
        assert self.model_path is not None, (
            f"{self.domain}: a server holds this teacher, and no folder is given"
        )
        return self.model_path
