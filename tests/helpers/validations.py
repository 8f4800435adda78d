"""Validations as a training remembers them."""

from __future__ import annotations

from trainer.validation import Score, Validated


def validated(step: int, math: float, code: float | None = None) -> Validated:
    """Both decodings of a domain are equally accurate."""
    scores = {"math": math, "code": math if code is None else code}
    one = {
        d: {"greedy": Score(a, 4, 4, 9.0, 1.0), "sampled": Score(a, 4, 8, 9.0, 0.5)}
        for d, a in scores.items()
    }
    return Validated(step, 1.5, one)
