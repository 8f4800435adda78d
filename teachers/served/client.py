"""A model that a server holds, asked for log-probabilities: few requests at a time, tried again, never for
ever."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from eval.records import Completion
from teachers.served.answers import MalformedAnswerError, response_logp
from teachers.served.canary import drift

if TYPE_CHECKING:
    import aiohttp
    import torch

FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Seconds before the second try and at most before any; each wait is twice the last one."""

TRY_SHARE = 0.5
"""Share of its patience that one try may take, so that a connection that hangs is tried again."""

CANARY_REQUESTS = 64
"""Requests between two readings of the canary; the first one reads it too."""

TRIED_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP states that may pass."""

MESSAGE_CHARACTERS = 300
"""Of a server's own words, at most so many are shown."""


class ServedError(RuntimeError):
    """A served model cannot be read (any more); the message names it, its server and the last error."""


class _PassingError(Exception):
    """An error that may pass; the request is tried again."""


@dataclass(frozen=True)
class ServedModel:
    """Where a model is served, as the schema's `Endpoint` declares it."""

    place: str
    """Where the config declares it."""
    url: str
    model: str
    api_key_env: str | None = None
    max_requests: int = 64
    patience_seconds: float = 300.0
    canary_tolerance: float = 0.1
    canary_ids: tuple[int, ...] = ()
    """Token ids that are read again and again; none: no canary."""
    canary_logp: tuple[float, ...] = ()
    """Their log-probabilities, from the second token on, as the run's start found them."""

    @property
    def root(self) -> str:
        """The server's address without the API's version, where vLLM has `/tokenize`."""
        return self.url.rstrip("/").removesuffix("/v1")

    def named(self) -> str:
        """The model for messages."""
        return f"{self.place}: model {self.model!r} at {self.url}"

    def key(self) -> str | None:
        """The server's key, from the environment; raises ServedError where the variable is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ServedError(
                f"{self.place}.api_key_env: the environment variable {self.api_key_env} is not set; it holds "
                f"the key of {self.url}"
            )
        return key


@dataclass
class ServedClient:
    """Asks one server from one event loop.

    `max_requests` are sent at a time; further ones wait their turn, and only then does their time begin.
    After one request has failed for good, all later ones fail at once with the same words.
    """

    served: ServedModel
    requests: int = 0
    """Sequences scored, or begun."""
    failed: ServedError | None = None
    _session: aiohttp.ClientSession | None = None
    _turns: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.served.max_requests)

    async def __aenter__(self) -> ServedClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def score(self, token_ids: Sequence[int], response_tokens: int) -> torch.Tensor:
        """logp_T, float32, as `SharedScorer.score` gives it: position t holds log p(token t+1 | tokens <= t)
        where token t+1 is one of the last `response_tokens`, and 0 elsewhere.

        Raises ServedError.
        """
        import torch

        if self.requests % CANARY_REQUESTS == 0:
            self.requests += 1  # at once, so that those that come meanwhile do not read it too
            await self._check_canary()
        else:
            self.requests += 1
        values = await self._logp(token_ids, response_tokens)
        logp_T = torch.zeros(len(token_ids))
        logp_T[len(token_ids) - response_tokens - 1 : -1] = torch.tensor(values)
        return logp_T

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """The answer to one completion; raises ServedError."""
        answer = await self.ask(f"{self.served.url.rstrip('/')}/completions", body)
        try:
            choice = answer["choices"][0]
            text, tokens = choice["text"], answer["usage"]["completion_tokens"]
            return Completion(str(text), int(tokens), choice["finish_reason"] == "stop")
        except (KeyError, IndexError, TypeError) as error:
            self._give_up(f"the answer is no completion ({type(error).__name__}: {error})")

    async def _check_canary(self) -> None:
        expected = self.served.canary_logp
        if not expected:
            return
        found = await self._logp(self.served.canary_ids, len(expected))
        if (moved := drift(expected, found)) > self.served.canary_tolerance:
            self._give_up(
                f"its weights are not those that the run began with: on {len(expected) + 1} fixed tokens its "
                f"log-probabilities have moved by {moved:.3g} nats in the mean, above canary_tolerance "
                f"{self.served.canary_tolerance:g}"
            )

    async def _logp(self, token_ids: Sequence[int], response_tokens: int) -> list[float]:
        body = {
            "model": self.served.model,
            "prompt": list(token_ids),
            "max_tokens": 1,  # vLLM writes one token at least
            "prompt_logprobs": 0,
            "temperature": 0.0,
        }
        answer = await self.ask(f"{self.served.url.rstrip('/')}/completions", body)
        try:
            return response_logp(answer, token_ids, response_tokens)
        except MalformedAnswerError as error:
            self._give_up(f"{error} (sent: {len(token_ids)} token ids)")

    async def ask(self, address: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """The JSON object that the server answers to a POST of `body`, or to a GET; raises ServedError.

        Tried again while an error may pass and `patience_seconds` are not over.
        """
        async with self._turns:
            patience = self.served.patience_seconds
            deadline, wait = time.monotonic() + patience, FIRST_WAIT
            while True:
                if self.failed is not None:
                    raise self.failed
                try:
                    seconds = min(deadline - time.monotonic(), TRY_SHARE * patience)
                    return await self._once(address, body, max(0.1, seconds))
                except _PassingError as error:
                    pause = wait * random.uniform(0.5, 1)  # so that many do not come back at the same time
                    if time.monotonic() + pause >= deadline:
                        self._give_up(
                            f"no answer within patience_seconds = {patience:g}; the last error: {error}"
                        )
                    await asyncio.sleep(pause)
                    wait = min(2 * wait, LONGEST_WAIT)

    async def _once(self, address: str, body: Mapping[str, Any] | None, seconds: float) -> Mapping[str, Any]:
        import aiohttp

        key = self.served.key()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        method = "GET" if body is None else "POST"
        try:
            async with self._connections().request(
                method,
                address,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,  # the key goes to the declared server only
            ) as response:
                if response.status in TRIED_AGAIN:
                    raise _PassingError(f"HTTP {response.status}: {_without(key, await response.text())}")
                if response.status != 200:
                    said = _without(key, await response.text())
                    self._give_up(_refusal(response.status, f"{said} ({address})", self.served))
                answer = await response.json(content_type=None)
        except TimeoutError:
            raise _PassingError(f"no answer to {address} in {seconds:.1f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _PassingError(f"{type(error).__name__}: {error}") from None
        except ValueError as error:
            self._give_up(f"the answer is no JSON ({error})")
        if not isinstance(answer, dict):
            self._give_up(f"the answer is no JSON object, but {type(answer).__name__}")
        return answer

    def _connections(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    def _give_up(self, why: str) -> NoReturn:
        self.failed = ServedError(f"{self.served.named()}: {why}")
        raise self.failed


def _refusal(status: int, said: str, served: ServedModel) -> str:
    """Why an answer of this HTTP state is not tried again."""
    if status in (401, 403):
        held = f"in {served.api_key_env} " if served.api_key_env else ""
        return f"the server does not accept the key {held}(HTTP {status}; api_key_env names the variable)"
    return f"HTTP {status}: {said}"


def _without(key: str | None, text: str) -> str:
    """The beginning of a server's words in one line, without the key that it may repeat."""
    line = " ".join(text.split())
    return (line if key is None else line.replace(key, "***"))[:MESSAGE_CHARACTERS]


def clients_of(models: Mapping[str, Mapping[str, Any]], processes: int) -> dict[str, ServedClient]:
    """A client for each of the served models, given as `ServedModel`'s fields, in one of so many processes
    that share the requests of each."""
    return {
        name: ServedClient(
            ServedModel(
                **{
                    **fields,
                    "max_requests": max(1, fields["max_requests"] // processes),
                    "canary_ids": tuple(fields["canary_ids"]),
                    "canary_logp": tuple(fields["canary_logp"]),
                }
            )
        )
        for name, fields in models.items()
    }
