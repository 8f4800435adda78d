"""A small server that answers as vLLM's OpenAI-compatible one does, and can be told to fail."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from aiohttp import web
from transformers import AutoTokenizer

Logp = Callable[[list[int], int], float]
"""(token ids, place) -> log p of the token at that place."""


def plain_logp(token_ids: list[int], place: int) -> float:
    """Some number that depends on the token and on the one before it."""
    return -0.5 - ((31 * token_ids[place - 1] + 7 * token_ids[place]) % 64) / 16


class FakeServer:
    """Runs in a thread; a context manager, outside of which the port is closed.

    `faults` are used up by the next completions, one each: an HTTP state, or a function that changes the
    answer."""

    def __init__(self, tokenizer: Path, model: str = "teacher", context: int | None = 4096) -> None:
        self.folder = tokenizer
        self.model, self.context = model, context
        self.logp: Logp = plain_logp
        self.faults: deque[int | Callable[[dict[str, Any]], Any]] = deque()
        self.key: str | None = None
        self.seconds = 0.0
        """How long each completion takes."""
        self.prompts: list[list[int]] = []
        """Token ids of every completion that was answered."""
        self.bodies: list[dict[str, Any]] = []
        """What was asked in each of them."""
        self.waiting = self.most_waiting = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._app(), shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        if self.key is not None and given != f"Bearer {self.key}":
            return web.json_response({"error": f"Unauthorized: {given}"}, status=401)
        return await handler(request)

    async def _models(self, _: web.Request) -> web.Response:
        card = {"id": self.model, "root": "/models/teacher", "max_model_len": self.context}
        return web.json_response({"object": "list", "data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        ids = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
        return web.json_response({"count": len(ids), "max_model_len": self.context, "tokens": ids})

    async def _detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": self.tokenizer.decode((await request.json())["tokens"])})

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await asyncio.sleep(self.seconds)
            fault = self.faults.popleft() if self.faults else None
            if isinstance(fault, int):
                said = f"out of order, {request.headers.get('Authorization')}"
                return web.Response(status=fault, text=said)
            answer = self._answer(body)
            return web.json_response(answer if fault is None else fault(answer))
        finally:
            self.waiting -= 1

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["prompt"]
        assert body["max_tokens"] >= 1, "vLLM refuses 0"
        self.prompts.append(ids)
        self.bodies.append(body)
        entries = [None] + [
            {str(ids[place]): {"logprob": self.logp(ids, place), "rank": 1, "decoded_token": "x"}}
            for place in range(1, len(ids))
        ]
        shown = entries if body.get("prompt_logprobs") is not None else None
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": shown}
        return {"choices": [choice], "usage": {"completion_tokens": 1}}


@cache
def lasting_server(tokenizer: Path) -> FakeServer:
    """A server that ends with the tests' process."""
    return FakeServer(tokenizer).__enter__()
