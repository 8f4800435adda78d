"""Decoding from a join of models: equal to the slow way, one token at a time without caches."""

from __future__ import annotations

import pytest

from teachers.mixture import Decoded, MixtureDecoder
from tests.unit.model_copies import STUDENT, noisy_copy

torch = pytest.importorskip("torch")

EOS = 1
PROMPTS = ["Math: 37+48\n", "Math: 3*4+5\n", "Code: sum of xs\n"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"reference": str(STUDENT), "math": str(noisy_copy(folder / "math", seed=5))}


@pytest.fixture(scope="module")
def decoder(folders):
    return MixtureDecoder(folders, "cpu", "float32", rows_per_batch=2)


@pytest.fixture(scope="module")
def prompts():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    return [tokenizer.encode(text) for text in PROMPTS]


def extrapolated(teacher, reference):
    return (1.5 * teacher - 0.5 * reference).log_softmax(-1)


def slow_greedy(decoder, names, join, prompt, max_tokens):
    ids, answer = list(prompt), []
    with torch.inference_mode():
        for _ in range(max_tokens):
            logp = [decoder.models[name](torch.tensor([ids])).logits[0, -1].log_softmax(-1) for name in names]
            token = int(join(*logp).argmax())
            if token == EOS:
                return Decoded(tuple(answer), True)
            answer.append(token)
            ids.append(token)
    return Decoded(tuple(answer), False)


@pytest.mark.parametrize(
    ("names", "join"),
    [
        (["math", "reference"], extrapolated),
        (["math"], lambda logp: logp),
        (["reference"], lambda logp: logp),
    ],
)
def test_greedy_equals_the_slow_way(decoder, prompts, names, join):
    found = decoder.decode(names, join, prompts, 40, [EOS], seed=None)
    assert found == [slow_greedy(decoder, names, join, prompt, 40) for prompt in prompts]
    assert any(answer.finished for answer in found) and all(answer.tokens > 0 for answer in found)


def test_the_limit_cuts_an_answer_off(decoder, prompts):
    whole, cut = (decoder.decode(["reference"], lambda p: p, prompts[:1], n, [EOS], None)[0] for n in (40, 3))
    assert cut == Decoded(whole.token_ids[:3], False) and cut.tokens == 3
    assert whole.finished and whole.tokens == len(whole.token_ids) + 1


def test_a_seed_repeats_and_another_differs(decoder, prompts):
    draw = lambda seed: decoder.decode(["reference"], lambda p: p, prompts * 4, 20, [EOS], seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_tokens_are_drawn_from_what_the_join_returns(decoder, prompts):
    """Half of the first tokens are 5 and half are 7, whatever the models say."""

    def fixed(logp):
        answer = torch.full_like(logp, float("-inf"))
        answer[:, [5, 7]] = torch.log(torch.tensor(0.5))
        return answer

    first = [a.token_ids[0] for a in decoder.decode(["math"], fixed, prompts[:1] * 200, 1, [EOS], seed=3)]
    assert set(first) == {5, 7} and 70 < first.count(5) < 130
