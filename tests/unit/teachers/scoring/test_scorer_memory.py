"""Bytes that the scorer keeps alive: by its limits, not by how many rollouts wait."""

from __future__ import annotations

import pytest

import teachers.scoring.scorer as scorer_module
from merging.exopd.objective import optimum
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.live_storage import LiveStorage
from tests.helpers.training_engines import write_causal_model
from trainer.memory import HALF, SCORED_LOGIT_BYTES, ModelSize, reading_bytes_per_token

torch = pytest.importorskip("torch")

VOCABULARY, HIDDEN, TOKENS = 30_000, 32, 64
POSITIONS = 8
"""Whose logits exist at the same time."""
LENGTH, RESPONSE = 16, 12


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = {
        name: str(write_causal_model(folder / name, vocabulary=VOCABULARY, hidden=HIDDEN, layers=2))
        for name in ("teacher", "reference")
    }
    return SharedScorer(models, "cpu", "bfloat16", TOKENS)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(scorer_module, "LOGITS_PER_CHUNK", POSITIONS * VOCABULARY)


def waiting(rollouts: int) -> list[Scored]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (rollouts, LENGTH), generator=generator).tolist()
    return [Scored(tuple(row), RESPONSE) for row in tokens]


def peak_of(run) -> int:
    with LiveStorage() as storage:
        run()
    return storage.peak


def passes_and_logits(scorer: SharedScorer, models: int = 1) -> int:
    """The limit by docs/memory.md, of a batch and a chunk."""
    size = ModelSize.of(scorer.module.config.to_dict())
    return TOKENS * reading_bytes_per_token(size) + models * SCORED_LOGIT_BYTES * POSITIONS * VOCABULARY


def test_scores_of_many_rollouts_take_no_more_than_those_of_a_batch(scorer):
    scorer.score("teacher", waiting(1))  # its weights are in
    few, many = (peak_of(lambda n=n: scorer.score("teacher", waiting(n))) for n in (4, 32))
    assert many <= 1.05 * few
    assert few <= 1.05 * passes_and_logits(scorer)


def test_distributions_of_many_rollouts_wait_within_the_limit(scorer, monkeypatch):
    turns = []
    read = scorer.seats[0].adapters.load_full
    monkeypatch.setattr(
        scorer.seats[0].adapters, "load_full", lambda *a, **k: turns.append(1) or read(*a, **k)
    )
    one_batch = 2 * HALF * HIDDEN * RESPONSE * (TOKENS // LENGTH)
    monkeypatch.setattr(scorer_module, "HIDDEN_BYTES", 2 * one_batch)

    def targets(rollouts: int):
        return scorer.targets(["teacher", "reference"], optimum(1.25), waiting(rollouts), top_k=4)

    scorer.score("reference", waiting(1))
    turns.clear()
    few = peak_of(lambda: targets(8))
    assert len(turns) == 2, "two batches of four are one wave: each model takes its turn once"
    turns.clear()
    many = peak_of(lambda: targets(32))
    assert len(turns) == 8, "eight batches are four waves"
    token = 4 * (2 + 1 + 4 + 4)  # T and B, the rest, four log-probabilities and their ids
    results = 24 * LENGTH * token  # of the further rollouts; handed back, on the host
    assert many <= 1.05 * few + 3 * results
    assert few <= 1.05 * passes_and_logits(scorer, models=2) + 2 * one_batch + 3 * results


def test_waves_change_nothing(scorer, monkeypatch):
    models = ["teacher", "reference"]
    whole = scorer.targets(models, optimum(1.25), waiting(12), top_k=4)
    monkeypatch.setattr(scorer_module, "HIDDEN_BYTES", 1)
    before = dict(scorer.passes)
    for found, expected in zip(
        scorer.targets(models, optimum(1.25), waiting(12), top_k=4), whole, strict=True
    ):
        for name, values in vars(expected).items():
            assert torch.equal(getattr(found, name), values), name
    assert {name: scorer.passes[name] - before[name] for name in models} == dict.fromkeys(models, 12)
