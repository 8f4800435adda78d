"""Prompts that are like none of the labelled ones: a classifier may be sure of them all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TYPICAL = 0.05
"""Share of the labelled prompts that may be less like the others than the `typical` one is."""


@dataclass(frozen=True)
class Nearest:
    """How like its nearest labelled prompt a prompt is: the cosine of their features."""

    index: Any
    vectorizer: Any
    """A fitted scikit-learn transformer; None where the rows are vectors."""
    typical: float
    """What 95% of the labelled prompts reach or exceed with another labelled prompt."""

    @classmethod
    def of(cls, rows: Any, groups: np.ndarray, vectorizer: Any) -> Nearest:
        """`rows` are the labelled prompts, `groups` the same number for the same text."""
        import numpy as np
        from sklearn.neighbors import NearestNeighbors

        _, first = np.unique(groups, return_index=True)
        different = rows[first]
        vectors = different if vectorizer is None else vectorizer.fit_transform(different)
        index = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors)
        own = 1 - index.kneighbors(vectors, n_neighbors=2)[0][:, 1]  # the nearest is the prompt itself
        return cls(index, vectorizer, float(np.quantile(own, TYPICAL)))

    def similarity(self, rows: Any) -> np.ndarray:
        """[prompts]"""
        vectors = rows if self.vectorizer is None else self.vectorizer.transform(rows)
        return 1 - self.index.kneighbors(vectors, n_neighbors=1)[0][:, 0]
