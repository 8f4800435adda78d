"""Whole distributions from the shared scorer: the optimum q, as the slow way has it, in two passes."""

from __future__ import annotations

from functools import partial

import pytest

import teachers.scoring.scorer as scorer_module
from merging.exopd.objective import optimum, optimum_logp
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT

torch = pytest.importorskip("torch")

LAMBDA = 1.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"reference": str(STUDENT), "math": str(noisy_copy(folder / "math", seed=5))}


@pytest.fixture
def scorer(folders):
    return SharedScorer(folders, device="cpu", dtype="float32", tokens_per_batch=64)


def rollout(seed: int, prompt: int, response: int) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    return Scored(tuple(torch.randint(3, 99, (prompt + response,), generator=generator).tolist()), response)


SEQUENCES = [rollout(0, 7, 5), rollout(1, 3, 12), rollout(2, 20, 1)]


def extrapolated(teacher, reference):
    return optimum_logp(teacher, reference, LAMBDA)


@pytest.fixture(scope="module")
def slow(folders):
    """All log-probabilities of both models for each sequence, [tokens, vocabulary]."""
    from transformers import AutoModelForCausalLM

    models = {name: AutoModelForCausalLM.from_pretrained(path).eval() for name, path in folders.items()}
    with torch.inference_mode():
        return [
            {
                name: model(torch.tensor([s.token_ids])).logits[0].log_softmax(-1)
                for name, model in models.items()
            }
            for s in SEQUENCES
        ]


def scored(sequence: Scored) -> slice:
    total = len(sequence.token_ids)
    return slice(total - sequence.response_tokens - 1, total - 1)


@pytest.mark.parametrize("logits_per_chunk", [10, 10_000_000])
def test_the_optimum_is_that_of_both_models_distributions(scorer, slow, monkeypatch, logits_per_chunk):
    monkeypatch.setattr(scorer_module, "LOGITS_PER_CHUNK", logits_per_chunk)
    targets = scorer.targets(["math", "reference"], extrapolated, SEQUENCES)
    for sequence, target, logp in zip(SEQUENCES, targets, slow, strict=True):
        part = scored(sequence)
        expected = (LAMBDA * logp["math"] + (1 - LAMBDA) * logp["reference"]).log_softmax(-1)
        torch.testing.assert_close(target.log_q_TV[part], expected[part], atol=2e-5, rtol=0)
        assert target.log_q_TV.shape == (len(sequence.token_ids), 99)
        assert target.log_q_TV[: part.start].eq(0).all() and target.log_q_TV[-1].eq(0).all()
        assert target.ids_TK is None and target.tail_log_q_T is None


def test_sampled_tokens_have_the_scores_of_the_plain_way(scorer):
    targets = scorer.targets(["math", "reference"], extrapolated, SEQUENCES)
    for name, model in (("teacher_logp_T", "math"), ("reference_logp_T", "reference")):
        for target, row in zip(targets, scorer.score(model, SEQUENCES), strict=True):
            torch.testing.assert_close(getattr(target, name), row, atol=1e-5, rtol=0)


def test_topk_keeps_the_likeliest_tokens_and_the_rest_as_one(scorer):
    whole = scorer.targets(["math", "reference"], extrapolated, SEQUENCES)
    for k in (1, 5, 200):
        kept = scorer.targets(["math", "reference"], extrapolated, SEQUENCES, top_k=k)
        for sequence, all_tokens, some in zip(SEQUENCES, whole, kept, strict=True):
            part = scored(sequence)
            width = min(k, 99)
            values = all_tokens.log_q_TV[part].topk(width).values
            torch.testing.assert_close(some.log_q_TV[part], values)
            torch.testing.assert_close(all_tokens.log_q_TV[part].gather(1, some.ids_TK[part].long()), values)
            total = some.log_q_TV[part].exp().sum(-1) + some.tail_log_q_T[part].exp()
            torch.testing.assert_close(total, torch.ones_like(total))


def test_two_passes_a_rollout_and_one_where_the_reference_is_not_read(scorer):
    scorer.targets(["math", "reference"], extrapolated, SEQUENCES)
    assert scorer.passes == {"math": 3, "reference": 3}
    alone = scorer.targets(["math"], lambda teacher: teacher, SEQUENCES)
    assert scorer.passes == {"math": 6, "reference": 3}
    for target in alone:
        assert target.teacher_logp_T.equal(target.reference_logp_T)


def test_at_lambda_zero_the_reference_alone_is_the_optimum_of_both(scorer):
    both = scorer.targets(["math", "reference"], partial(optimum_logp, reward_scale=0.0), SEQUENCES)
    alone = scorer.targets(["reference"], optimum(0.0), SEQUENCES)
    assert scorer.passes == {"math": 3, "reference": 6}
    for one, other in zip(alone, both, strict=True):
        torch.testing.assert_close(one.log_q_TV, other.log_q_TV, atol=1e-5, rtol=0)
        assert one.teacher_logp_T.equal(one.reference_logp_T) and one.reference_logp_T.equal(
            other.reference_logp_T
        )


def test_nothing_to_score(scorer):
    assert scorer.targets(["math", "reference"], extrapolated, []) == []
    empty = scorer.targets(["math", "reference"], extrapolated, [Scored((5, 6, 7), 0)])[0]
    assert empty.log_q_TV.shape == (3, 99) and empty.log_q_TV.eq(0).all()
