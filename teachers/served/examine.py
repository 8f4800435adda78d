"""Whether a server has the model that a config names, reads the student's tokens, and tells
log-probabilities."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from common.digests import json_sha256
from teachers.scoring.canary import canary_tokens
from teachers.served.answers import MalformedAnswerError, response_logp
from teachers.served.client import ServedClient, ServedError, ServedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_SECONDS = 5.0
"""How long a server may take to answer each question before a run, its tries together."""

TEXTS = (
    "The quick brown fox: 12345 + 6789 = 19134.",
    "def f(x):\n    return [x**2 for _ in range(10)]\t# done\r\n\n\n",
    "\\boxed{\\frac{1}{2}}  \u00e9\u00fc\u00df \u4f60\u597d \u0416 \U0001f600 \u200b\u00a0",
    "<|im_start|>user\n<think> </s> [INST] <eos>",
)
"""Texts whose token ids must be the student's; that of the added tokens follows."""

ADDED_TOKENS = 64
"""Most added tokens, special ones among them, that are compared."""

OTHER_TOKENIZER = "another tokenizer than the student's"

SPREAD_IDS = 256
"""Token ids, spread over the vocabulary, whose texts must be the student's; the last id is added."""


@dataclass(frozen=True)
class ServedFacts:
    """What a server said of a model when a run began."""

    url: str
    model: str
    max_model_len: int | None
    """Longest context in tokens; None where the server states none."""
    root: str | None
    """What it was loaded from, on the server's machine."""
    canary_ids: tuple[int, ...]
    canary_logp: tuple[float, ...]
    """log p of each of the ids but the first one."""

    @property
    def sha256(self) -> str:
        """Over the model's name and the canary's log-probabilities."""
        return json_sha256([self.model, self.canary_ids, self.canary_logp])

    def told(self) -> str:
        """All of it in a line."""
        context = "context not stated" if self.max_model_len is None else f"context {self.max_model_len}"
        return f"{self.model} at {self.url} (root {self.root}, {context}), canary {self.sha256[:12]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def examine(served: ServedModel, tokenizer: PreTrainedTokenizerBase, needed_tokens: int) -> ServedFacts:
    """Asks the server; `tokenizer` is the student's, `needed_tokens` the longest sequence that is scored, and
    one.

    Raises ServedError, one message, for a server that does not answer, has another model, a shorter context
    or another tokenizer, or tells no log-probabilities.
    """
    return asyncio.run(_examine(replace(served, patience_seconds=ANSWER_SECONDS), tokenizer, needed_tokens))


async def _examine(
    served: ServedModel, tokenizer: PreTrainedTokenizerBase, needed_tokens: int
) -> ServedFacts:
    async with ServedClient(served) as client:
        card = await _card(client)
        limit = card.get("max_model_len")
        if isinstance(limit, int) and limit < needed_tokens:
            raise _refused(
                served,
                f"its context of {limit} tokens is too short: {needed_tokens} are needed (max_prompt_tokens "
                f"+ "
                "max_response_tokens + 1); start it with a larger --max-model-len",
            )
        await _check_tokenizer(client, tokenizer)
        ids = canary_ids(len(tokenizer), needed_tokens)
        return ServedFacts(
            url=served.url,
            model=served.model,
            max_model_len=limit if isinstance(limit, int) else None,
            root=card.get("root"),
            canary_ids=ids,
            canary_logp=tuple(await _canary(client, ids)),
        )


def canary_ids(vocabulary: int, context: int) -> tuple[int, ...]:
    """Fixed token ids over the whole vocabulary, the last one included: a smaller vocabulary refuses it."""
    return (*canary_tokens(vocabulary, context - 1), vocabulary - 1)


async def _card(client: ServedClient) -> Mapping[str, Any]:
    """What `/v1/models` says of the model."""
    served = client.served
    answer = await client.ask(f"{served.url.rstrip('/')}/models")
    listed = answer.get("data")
    cards = (
        {card.get("id"): card for card in listed if isinstance(card, dict)}
        if isinstance(listed, list)
        else {}
    )
    if served.model not in cards:
        names = ", ".join(repr(name) for name in cards) or "none"
        raise _refused(served, f"the server has no model of this name; valid: {names}")
    return cards[served.model]


async def _check_tokenizer(client: ServedClient, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compares token ids of some texts, and texts of some token ids, with the student's."""
    root, model = client.served.root, client.served.model
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    special = "".join(str(added[token]) for token in sorted(added)[:ADDED_TOKENS])
    for text in (*TEXTS, special):
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        theirs = (await client.ask(f"{root}/tokenize", body)).get("tokens")
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        if theirs != ours:
            raise _refused(client.served, f"{OTHER_TOKENIZER}: {_difference(text, theirs, ours)}")
    ids = spread_ids(len(tokenizer))
    for some in (ids, *([each] for each in ids)):  # all at once, and one by one to find what differs
        theirs = (await client.ask(f"{root}/detokenize", {"model": model, "tokens": some})).get("prompt")
        ours = tokenizer.decode(some)
        if some is ids and theirs == ours:
            return
        if some is not ids and theirs != ours:
            raise _refused(client.served, f"{OTHER_TOKENIZER}: id {some[0]} is {theirs!r} against {ours!r}")
    raise _refused(client.served, f"{OTHER_TOKENIZER}: {len(ids)} ids together read differently")


def spread_ids(vocabulary: int) -> list[int]:
    """At most `SPREAD_IDS` and one, evenly over the vocabulary, the last one included."""
    step = max(1, vocabulary // SPREAD_IDS)
    return sorted({*range(0, vocabulary, step), vocabulary - 1})


def _difference(text: str, theirs: Any, ours: Sequence[int]) -> str:
    if not isinstance(theirs, list):
        return f"{text!r:.60} has no token ids there"
    place = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return f"{text!r:.60} has {len(theirs)} tokens against {len(ours)}"
    return f"token {place + 1} of {text!r:.60} is id {theirs[place]} against {ours[place]}"


async def _canary(client: ServedClient, ids: Sequence[int]) -> list[float]:
    body = {"model": client.served.model, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": 0}
    answer = await client.ask(f"{client.served.url.rstrip('/')}/completions", body)
    try:
        return response_logp(answer, ids, len(ids) - 1)
    except MalformedAnswerError as error:
        raise _refused(
            client.served,
            f"the server does not tell log-probabilities of a prompt's tokens ({error}); vLLM does",
        ) from None


def _refused(served: ServedModel, why: str) -> ServedError:
    return ServedError(f"{served.named()}: {why}")
