"""Prompts that are like none of the labelled ones: a classifier may be sure of them all the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from routing.routers.blocks import by_blocks

if TYPE_CHECKING:
    import numpy as np

TYPICAL = 0.05
"""Share of the labelled prompts that may be less like the others than the `typical` one is."""

COMPARED = 2000
"""Labelled prompts that are compared with all others to find `typical`. Where there are more it is a random
choice of them, so that time grows with their number and not with its square."""


@dataclass(frozen=True)
class Nearest:
    """How like its nearest labelled prompt a prompt is: the cosine of their features."""

    labelled: Any
    """Features of the different labelled prompts, each of length 1, [labelled, features]."""
    vectorizer: Any
    """A fitted scikit-learn transformer; None where the rows are vectors."""
    typical: float
    """What 95% of the labelled prompts reach or exceed with another labelled prompt."""

    @classmethod
    def of(cls, rows: Any, groups: np.ndarray, vectorizer: Any) -> Nearest:
        """`rows` are the labelled prompts, `groups` the same number for the same text."""
        import numpy as np
        from sklearn.preprocessing import normalize

        _, first = np.unique(groups, return_index=True)
        different = rows[first]
        labelled = normalize(different if vectorizer is None else vectorizer.fit_transform(different))
        own = by_blocks(lambda places: _nearest_other(labelled, places), _compared(len(different)))
        return cls(labelled, vectorizer, float(np.quantile(own, TYPICAL)))

    def similarity(self, rows: Any) -> np.ndarray:
        """[prompts]"""
        return by_blocks(self._similarity, rows)

    def _similarity(self, rows: Any) -> np.ndarray:
        from sklearn.preprocessing import normalize

        vectors = rows if self.vectorizer is None else self.vectorizer.transform(rows)
        return _cosines(normalize(vectors), self.labelled).max(axis=1)


def _compared(labelled: int) -> np.ndarray:
    """Places of the labelled prompts that are compared with the others."""
    import numpy as np

    places = range(labelled)
    return np.array(places if labelled <= COMPARED else random.Random(0).sample(places, COMPARED))


def _nearest_other(labelled: Any, places: np.ndarray) -> np.ndarray:
    """Cosine of each of these labelled prompts to the nearest one of the others."""
    cosines = _cosines(labelled[places], labelled)
    cosines[range(len(places)), places] = -1.0
    return cosines.max(axis=1)


def _cosines(some: Any, labelled: Any) -> np.ndarray:
    """[some, labelled], of vectors of length 1, sparse or not."""
    product = some @ labelled.T
    return product.toarray() if hasattr(product, "toarray") else product
