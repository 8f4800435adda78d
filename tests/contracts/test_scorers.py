"""What every scorer backend must do: `score(model, [Scored]) -> [tensor]`, equal to the slow oracle.

A new backend is a class that is built from {name: folder} and a line in SCORERS.
"""

from __future__ import annotations

import functools

import pytest

from teachers.scoring.scorer import Scored, SharedScorer
from teachers.scoring.sharded.scorer import ShardedScorer
from tests.helpers.gloo_ranks import one_rank
from tests.helpers.model_copies import noisy_copy
from tests.helpers.paths import STUDENT
from tests.helpers.scored import SEQUENCES

torch = pytest.importorskip("torch")


class SlowScorer:
    """The obvious way: each model is loaded whole, one sequence at a time, all logits, no padding."""

    def __init__(self, models: dict[str, str]):
        from transformers import AutoModelForCausalLM

        self.models = {
            name: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            for name, path in models.items()
        }

    @torch.inference_mode()
    def score(self, model: str, sequences: list[Scored]) -> list:
        return [self.score_one(self.models[model], sequence) for sequence in sequences]

    @staticmethod
    def score_one(model, sequence: Scored):
        logp = model(torch.tensor([sequence.token_ids])).logits[0].log_softmax(dim=-1)
        row = torch.zeros(len(sequence.token_ids))
        for position in range(len(sequence.token_ids) - 1):
            scored_token = position + 1
            if scored_token >= len(sequence.token_ids) - sequence.response_tokens:
                row[position] = logp[position, sequence.token_ids[scored_token]]
        return row


SCORERS = {
    "oracle": SlowScorer,
    "shared": functools.partial(SharedScorer, device="cpu", dtype="float32", tokens_per_batch=64),
    "shared, one by one": functools.partial(SharedScorer, device="cpu", dtype="float32", tokens_per_batch=1),
    "sharded": functools.partial(ShardedScorer, device="cpu", dtype="float32", tokens_per_batch=64),
}
"""Each backend on a CPU, built from {name: folder}."""


@pytest.fixture(scope="module", autouse=True)
def ranks():
    """This process as the only rank of the sharded scorer."""
    with one_rank():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"reference": str(STUDENT), "math": str(noisy_copy(folder / "math", seed=1))}


@pytest.fixture(scope="module")
def oracle(models):
    scorer = SlowScorer(models)
    return {name: scorer.score(name, SEQUENCES) for name in models}


@pytest.fixture(scope="module", params=SCORERS)
def scorer(request, models):
    return SCORERS[request.param](models)


def assert_same(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and one.shape == other.shape
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["reference", "math"])
def test_equals_the_oracle(scorer, oracle, name):
    assert_same(scorer.score(name, SEQUENCES), oracle[name])


def test_only_response_positions_are_filled(scorer):
    for sequence, row in zip(SEQUENCES, scorer.score("math", SEQUENCES), strict=True):
        first = len(sequence.token_ids) - sequence.response_tokens - 1
        assert row[:first].eq(0).all() and row[-1] == 0
        assert (row[first:-1] < 0).all()


def test_every_model_keeps_its_own_values(scorer, oracle):
    first, second, third = (scorer.score(name, SEQUENCES) for name in ("reference", "math", "reference"))
    assert_same(first, oracle["reference"])
    assert_same(second, oracle["math"])
    assert_same(third, first, tolerance=0)
    differences = [(a - b).abs().max() for a, b in zip(first, second, strict=True)]
    assert min(differences) > 1e-3  # the models do differ on every sequence


def test_company_and_order_do_not_matter(scorer, oracle):
    assert_same(scorer.score("math", SEQUENCES[::-1]), oracle["math"][::-1])
    for sequence, row in zip(SEQUENCES, oracle["math"], strict=True):
        assert_same(scorer.score("math", [sequence]), [row])


def test_a_token_is_scored_from_those_before_it(scorer):
    """A changed last token changes its own score only; a changed first one all that follow."""
    tokens, response = SEQUENCES[0].token_ids, SEQUENCES[0].response_tokens
    other = 3 + (tokens[-1] - 2) % 96
    last = Scored((*tokens[:-1], other), response)
    first = Scored((3 + (tokens[0] - 2) % 96, *tokens[1:]), response)
    plain, with_last, with_first = scorer.score("math", [SEQUENCES[0], last, first])
    scored = slice(len(tokens) - response - 1, len(tokens) - 1)
    torch.testing.assert_close(plain[:-2], with_last[:-2], atol=1e-6, rtol=0)
    assert (plain[-2] - with_last[-2]).abs() > 1e-3
    assert (plain[scored] - with_first[scored]).abs().min() > 1e-6


def test_no_sequences_give_no_rows(scorer):
    assert scorer.score("math", []) == []


def test_an_unknown_model_is_an_error(scorer):
    with pytest.raises(KeyError, match="nobody"):
        scorer.score("nobody", SEQUENCES)
