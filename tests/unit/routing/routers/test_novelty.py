"""How like the labelled prompts a prompt is: as scikit-learn's neighbours tell, in bounded memory."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from routing.routers import blocks, novelty
from routing.routers.blocks import by_blocks
from routing.routers.novelty import TYPICAL, Nearest
from routing.routers.text_features import Tfidf

TEXTS = [f"{a} {b} {a * b} apples and {b} pears" for a in range(2, 9) for b in "one two three four".split()]  # noqa: SIM905


def neighbours(vectors, others):
    """(typical, similarity of the others) by scikit-learn's brute-force neighbours."""
    index = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors)
    own = 1 - index.kneighbors(vectors, n_neighbors=2)[0][:, 1]
    return np.quantile(own, TYPICAL), 1 - index.kneighbors(others, n_neighbors=1)[0][:, 0]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_texts_in_blocks_of_any_size_are_as_similar_as_scikit_learn_says(monkeypatch, size):
    monkeypatch.setattr(blocks, "BLOCK", size)
    features = Tfidf()
    labelled, others = features.read(TEXTS[::2]), features.read([*TEXTS[1::2], "Bonjour", ""])
    nearest = Nearest.of(labelled, np.arange(len(labelled)), features.vectorizer())
    vectorizer = features.vectorizer().fit(labelled)
    typical, similarity = neighbours(vectorizer.transform(labelled), vectorizer.transform(others))
    assert nearest.typical == pytest.approx(typical)
    assert nearest.similarity(others) == pytest.approx(similarity)
    assert nearest.similarity(others)[-1] == 0


def test_vectors_of_an_encoder_with_two_alike_and_one_of_zeros():
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    vectors[5], vectors[7] = vectors[6], 0
    nearest = Nearest.of(vectors, np.arange(60), None)
    typical, similarity = neighbours(vectors, vectors[:20] + 0.1)
    assert nearest.typical == pytest.approx(typical, abs=1e-6)
    assert nearest.similarity(vectors[:20] + 0.1) == pytest.approx(similarity, abs=1e-6)


def test_equal_texts_do_not_make_each_other_typical():
    features = Tfidf()
    rows = features.read([text for text in TEXTS for _ in range(3)])
    once = Nearest.of(features.read(TEXTS), np.arange(len(TEXTS)), features.vectorizer())
    assert Nearest.of(rows, np.arange(len(rows)) // 3, features.vectorizer()).typical == pytest.approx(
        once.typical
    )


def test_of_many_labelled_prompts_some_stand_for_all(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(400, 4))
    exact = Nearest.of(vectors, np.arange(400), None).typical
    monkeypatch.setattr(novelty, "COMPARED", 100)
    sampled = Nearest.of(vectors, np.arange(400), None).typical
    assert sampled != exact and sampled == pytest.approx(exact, abs=0.02)
    assert Nearest.of(vectors, np.arange(400), None).typical == sampled  # the same ones every time


def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 3)
    seen = []
    found = by_blocks(lambda rows: seen.append(len(rows)) or rows * 2, np.arange(8))
    assert seen == [3, 3, 2] and found.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
