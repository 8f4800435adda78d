"""The client of a served model, against a small server that can be told to fail."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from teachers.served.client import CANARY_REQUESTS, ServedClient, ServedError, ServedModel, clients_of
from tests.helpers.fake_server import FakeServer, plain_logp
from tests.helpers.paths import STUDENT

SEQUENCE = [4, 8, 15, 16, 23, 42]


@pytest.fixture
def server():
    with FakeServer(STUDENT) as server:
        yield server


def model_of(server: FakeServer, **changes: Any) -> ServedModel:
    own = {"place": "domains.math.expert", "url": server.url, "model": server.model, "patience_seconds": 20.0}
    return ServedModel(**own | changes)


def scored(served: ServedModel, sequences: list[list[int]], response_tokens: int = 3) -> list:
    """All sequences at the same time; the first error is raised."""

    async def run() -> list:
        async with ServedClient(served) as client:
            return await asyncio.gather(*(client.score(ids, response_tokens) for ids in sequences))

    return asyncio.run(run())


def failing(served: ServedModel, sequences: list[list[int]]) -> tuple[str, float]:
    """The message, and the seconds until it came."""
    began = time.monotonic()
    with pytest.raises(ServedError) as caught:
        scored(served, sequences)
    return str(caught.value), time.monotonic() - began


def test_a_rollout_is_scored_as_the_shared_scorer_does(server):
    (logp_T,) = scored(model_of(server), [SEQUENCE])
    assert logp_T.tolist() == [0, 0, *(plain_logp(SEQUENCE, place) for place in (3, 4, 5)), 0]
    assert server.prompts == [SEQUENCE]


@pytest.mark.parametrize("state", [429, 500, 503])
def test_what_may_pass_is_tried_again(server, state):
    server.faults.extend([state, state])
    began = time.monotonic()
    (logp_T,) = scored(model_of(server), [SEQUENCE])
    assert logp_T[2] == plain_logp(SEQUENCE, 3)
    assert time.monotonic() - began > 0.125 + 0.25  # half of the first two pauses at least


def test_a_server_that_starts_late_is_waited_for(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    late = FakeServer(STUDENT)
    late.port = port

    async def run() -> Any:
        async with ServedClient(model_of(server, url=f"http://127.0.0.1:{port}/v1")) as client:
            asked = asyncio.create_task(client.score(SEQUENCE, 3))
            await asyncio.sleep(0.5)
            with late:
                return await asked

    assert asyncio.run(run())[2] == plain_logp(SEQUENCE, 3)


def test_a_server_that_is_gone_ends_the_run_in_time_with_its_name():
    served = ServedModel("domains.math.expert", "http://127.0.0.1:9/v1", "teacher", patience_seconds=1.5)
    message, seconds = failing(served, [SEQUENCE] * 4)
    assert message.startswith("domains.math.expert: model 'teacher' at http://127.0.0.1:9/v1: no answer")
    assert "patience_seconds = 1.5" in message and "Cannot connect to host 127.0.0.1:9" in message
    assert seconds < 1.5 + 1


def test_a_server_that_hangs_ends_the_run_in_time(server):
    server.seconds = 60
    message, seconds = failing(model_of(server, patience_seconds=1.0), [SEQUENCE])
    assert "patience_seconds = 1;" in message and f"no answer to {server.url}/completions" in message
    assert seconds < 2


def test_a_try_that_hangs_leaves_time_for_another(server):
    async def run() -> Any:
        async with ServedClient(model_of(server, patience_seconds=4.0)) as client:
            server.seconds = 60.0
            asked = asyncio.create_task(client.score(SEQUENCE, 3))
            await asyncio.sleep(1.0)
            server.seconds = 0.0  # of the second try
            return await asked

    assert asyncio.run(run())[2] == plain_logp(SEQUENCE, 3)


def test_after_one_has_failed_for_good_the_waiting_ones_fail_at_once(server):
    server.seconds, server.key = 0.2, "right"
    _, seconds = failing(model_of(server, max_requests=1), [SEQUENCE] * 50)
    assert seconds < 2 and server.prompts == []


def test_no_more_requests_wait_at_a_time_than_are_allowed(server):
    server.seconds = 0.05
    scored(model_of(server, max_requests=3), [SEQUENCE] * 20)
    assert server.most_waiting == 3 and len(server.prompts) == 20


def test_waiting_for_a_turn_takes_nobodys_patience(server):
    """12 requests of 0.2 s, one at a time, are longer than the patience of each."""
    server.seconds = 0.2
    scored(model_of(server, max_requests=1, patience_seconds=1.0), [SEQUENCE] * 12)
    assert len(server.prompts) == 12


def test_the_processes_of_a_run_share_the_requests():
    fields = vars(ServedModel("p", "http://h/v1", "m", max_requests=20))
    stored = {**fields, "canary_ids": [1, 2], "canary_logp": [-1.0]}  # as verl's config holds them
    found = clients_of({"math": stored}, processes=8)["math"].served
    assert (found.max_requests, found.canary_ids, found.canary_logp) == (2, (1, 2), (-1.0,))
    assert clients_of({"math": fields}, processes=64)["math"].served.max_requests == 1


# -------------------------------------------------------------------------------- answers and keys


def test_a_malformed_answer_ends_the_run_with_what_came(server):
    server.faults.append(lambda answer: {"choices": [{"prompt_logprobs": None}]})
    message, _ = failing(model_of(server), [SEQUENCE])
    assert "no prompt log-probabilities came" in message and "sent: 6 token ids" in message


def test_an_answer_that_is_no_object_ends_the_run(server):
    server.faults.append(lambda answer: [1, 2])
    assert "no JSON object, but list" in failing(model_of(server), [SEQUENCE])[0]


def test_a_refusal_is_not_tried_again_and_told(server):
    server.faults.append(400)
    message, seconds = failing(model_of(server), [SEQUENCE])
    assert "HTTP 400: out of order" in message and f"({server.url}/completions)" in message and seconds < 1


class TestKey:
    def test_it_is_sent(self, server, monkeypatch):
        monkeypatch.setenv("SERVER_KEY", "very-secret")
        server.key = "very-secret"
        assert len(scored(model_of(server, api_key_env="SERVER_KEY"), [SEQUENCE])) == 1

    def test_a_wrong_one_is_refused_at_once_and_not_printed(self, server, monkeypatch):
        monkeypatch.setenv("SERVER_KEY", "very-secret")
        server.key = "another"
        message, seconds = failing(model_of(server, api_key_env="SERVER_KEY"), [SEQUENCE])
        assert "does not accept the key in SERVER_KEY (HTTP 401" in message
        assert "very-secret" not in message and seconds < 1

    def test_a_server_that_repeats_it_does_not_make_it_printed(self, server, monkeypatch):
        monkeypatch.setenv("SERVER_KEY", "very-secret")
        server.faults.append(400)
        message, _ = failing(model_of(server, api_key_env="SERVER_KEY"), [SEQUENCE])
        assert "out of order, Bearer ***" in message

    def test_a_variable_that_is_not_set_is_named(self, server, monkeypatch):
        monkeypatch.delenv("SERVER_KEY", raising=False)
        message, _ = failing(model_of(server, api_key_env="SERVER_KEY"), [SEQUENCE])
        assert "domains.math.expert.api_key_env: the environment variable SERVER_KEY is not set" in message

    def test_it_is_not_among_the_fields_that_are_stored(self, monkeypatch):
        monkeypatch.setenv("SERVER_KEY", "very-secret")
        assert "very-secret" not in repr(ServedModel("p", "http://h/v1", "m", api_key_env="SERVER_KEY"))


# ------------------------------------------------------------------------------------------ canary


def with_canary(server: FakeServer, **changes: Any) -> ServedModel:
    ids = (3, 1, 4, 1, 5)
    expected = tuple(plain_logp(list(ids), place) for place in range(1, 5))
    return model_of(server, canary_ids=ids, canary_logp=expected, **changes)


def shifted(by: float) -> Callable[[list[int], int], float]:
    return lambda ids, place: plain_logp(ids, place) - by


def test_the_canary_is_read_with_the_first_request_and_then_every_so_often(server):
    scored(with_canary(server), [SEQUENCE])
    assert server.prompts == [[3, 1, 4, 1, 5], SEQUENCE]
    server.prompts.clear()
    scored(with_canary(server), [SEQUENCE] * (2 * CANARY_REQUESTS + 1))
    assert server.prompts.count([3, 1, 4, 1, 5]) == 3


def test_weights_that_are_swapped_while_the_run_lasts_end_it(server):
    async def run() -> None:
        async with ServedClient(with_canary(server, canary_tolerance=0.05)) as client:
            await client.score(SEQUENCE, 3)
            server.logp = shifted(0.25)
            for _ in range(CANARY_REQUESTS):
                await client.score(SEQUENCE, 3)

    with pytest.raises(ServedError, match="weights are not those that the run began with") as caught:
        asyncio.run(run())
    assert "moved by 0.25 nats in the mean, above canary_tolerance 0.05" in str(caught.value)
    assert "on 5 fixed tokens" in str(caught.value)


def test_a_drift_within_the_tolerance_is_let_pass(server):
    server.logp = shifted(0.04)
    assert len(scored(with_canary(server, canary_tolerance=0.05), [SEQUENCE])) == 1
