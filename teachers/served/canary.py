"""Is the model behind a server still the one that the run began with?

The log-probabilities of a few fixed tokens are remembered at the start and compared later. The same weights
give numbers that differ by the order of sums: vLLM batches the canary with whatever else it reads, which in
bfloat16 moves single tokens by some hundredths of a nat. So the mean over all tokens is compared. Other
weights that move it by less are not seen.
"""

from __future__ import annotations

from collections.abc import Sequence


def drift(expected: Sequence[float], found: Sequence[float]) -> float:
    """Mean |difference| of two readings of the canary, in nats."""
    differences = [abs(one - other) for one, other in zip(expected, found, strict=True)]
    return sum(differences) / len(differences)
