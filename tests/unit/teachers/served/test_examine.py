"""What a server is asked before a run."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from common.reading import typed_value
from teachers.served.client import ServedError, ServedModel
from teachers.served.examine import ServedFacts, canary_ids, examine, spread_ids
from tests.helpers.fake_server import FakeServer, plain_logp
from tests.helpers.paths import STUDENT


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(STUDENT)


def model_of(server: FakeServer, model: str = "teacher") -> ServedModel:
    return ServedModel("domains.math.expert", server.url, model)


def other_tokenizer(folder: Path) -> Path:
    """The student's, with the ids of two letters exchanged."""
    shutil.copytree(STUDENT, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["q"], vocabulary["x"] = vocabulary["x"], vocabulary["q"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_what_a_right_server_says_is_remembered(tokenizer):
    with FakeServer(STUDENT, context=160) as server:
        facts = examine(model_of(server), tokenizer, 160)
    assert (facts.url, facts.model, facts.max_model_len, facts.root) == (
        server.url, "teacher", 160, "/models/teacher",
    )  # fmt: skip
    assert facts.canary_ids[-1] == len(tokenizer) - 1 and len(facts.canary_ids) == 17
    ids = list(facts.canary_ids)
    assert facts.canary_logp == tuple(plain_logp(ids, place) for place in range(1, 17))
    assert typed_value(facts.to_json(), ServedFacts, "facts") == facts
    assert f"teacher at {server.url} (root /models/teacher, context 160)" in facts.told()


def test_a_short_context_has_a_short_canary():
    assert len(canary_ids(100, 8)) == 8
    assert spread_ids(3) == [0, 1, 2] and spread_ids(151_936)[-1] == 151_935
    assert len(spread_ids(151_936)) <= 258


def refusal(server: FakeServer, tokenizer, model: str = "teacher", needed: int = 160) -> str:
    with pytest.raises(ServedError) as caught:
        examine(model_of(server, model), tokenizer, needed)
    message = str(caught.value)
    assert message.startswith(f"domains.math.expert: model {model!r} at {server.url}: ")
    assert "\n" not in message
    return message


def test_another_model_is_refused_with_those_that_are_there(tokenizer):
    with FakeServer(STUDENT) as server:
        assert "no model of this name; valid: 'teacher'" in refusal(server, tokenizer, "other")


def test_a_short_context_is_refused(tokenizer):
    with FakeServer(STUDENT, context=159) as server:
        assert "context of 159 tokens is too short: 160 are needed" in refusal(server, tokenizer)


def test_another_tokenizer_is_refused_with_the_first_token_that_differs(tmp_path, tokenizer):
    with FakeServer(other_tokenizer(tmp_path / "other")) as server:
        message = refusal(server, tokenizer)
    q, x = tokenizer.convert_tokens_to_ids(["q", "x"])
    assert "another tokenizer than the student's" in message
    assert f"is id {x} against {q}" in message  # the `q` of `quick` is the first of the two that is read


def test_other_texts_of_the_ids_are_refused(tokenizer):
    with FakeServer(STUDENT) as server:
        decode = server.tokenizer.decode
        server.tokenizer.decode = lambda ids: decode(ids).replace("q", "Q")
        q = tokenizer.convert_tokens_to_ids("q")
        assert f"another tokenizer than the student's: id {q} is 'Q' against 'q'" in refusal(
            server, tokenizer
        )


def test_a_server_without_prompt_log_probabilities_is_refused(tokenizer):
    with FakeServer(STUDENT) as server:
        server.faults.append(lambda answer: {"choices": [{"index": 0, "text": "x", "prompt_logprobs": None}]})
        assert "does not tell log-probabilities of a prompt's tokens" in refusal(server, tokenizer)


def test_a_server_that_is_not_there_is_refused_within_seconds(tokenizer):
    server = FakeServer(STUDENT)
    server.port = 9
    began = time.monotonic()
    assert "Cannot connect to host 127.0.0.1:9" in refusal(server, tokenizer)
    assert time.monotonic() - began < 7
