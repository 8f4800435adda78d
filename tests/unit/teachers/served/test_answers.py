"""What may come in place of a prompt's log-probabilities."""

from __future__ import annotations

import copy

import pytest

from teachers.served.answers import MalformedAnswerError, response_logp

IDS = [5, 9, 7, 9]
ANSWER = {
    "choices": [
        {"prompt_logprobs": [None, {"9": {"logprob": -1.5}}, {"7": {"logprob": -0.25}},
                             {"3": {"logprob": -0.1}, "9": {"logprob": -2.0}}]}
    ]
}  # fmt: skip


def test_the_responses_tokens_are_read_by_their_ids():
    assert response_logp(ANSWER, IDS, 2) == [-0.25, -2.0]
    assert response_logp(ANSWER, IDS, 3) == [-1.5, -0.25, -2.0]


def changed(place: int, entry: object) -> dict:
    answer = copy.deepcopy(ANSWER)
    answer["choices"][0]["prompt_logprobs"][place] = entry
    return answer


@pytest.mark.parametrize(
    "answer, said",
    [
        ({}, "no prompt log-probabilities came"),
        ({"choices": []}, "no prompt log-probabilities came"),
        ({"choices": [{"prompt_logprobs": None}]}, "no prompt log-probabilities came"),
        ({"choices": [{"prompt_logprobs": [None] * 3}]}, "of 3 tokens came for 4 that were sent"),
        (changed(2, None), "no log-probability of token 3 (id 7) came, but None"),
        (changed(2, {"8": {"logprob": -1.0}}), "token 3 (id 7) came, but those of the ids 8"),
        (changed(3, {"9": {"logprob": None}}), "token 4 (id 9) is None, which is no finite number"),
        (changed(3, {"9": {"logprob": float("nan")}}), "token 4 (id 9) is nan, which is no finite number"),
        (changed(3, {"9": {"logprob": -9999.0}}), "token 4 (id 9) is -9999.0, which is no finite number"),
        (changed(3, {"9": {"logprob": True}}), "token 4 (id 9) is True, which is no finite number"),
        (changed(3, {"9": {"logprob": 4.5}}), "token 4 (id 9) is 4.5, and none is above 0"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_came(answer, said):
    with pytest.raises(MalformedAnswerError) as caught:
        response_logp(answer, IDS, 2)
    assert said in str(caught.value)


def test_what_the_prompt_holds_is_not_read():
    assert response_logp(changed(1, {"9": {"logprob": -9999.0}}), IDS, 2) == [-0.25, -2.0]
