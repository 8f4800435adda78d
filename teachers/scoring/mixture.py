"""Answers sampled from a combination of models: next-token distributions are joined, then a token drawn.

The models decode side by side, each with its own cache. What joins their distributions is given by the
caller, so this module knows no objective.

What decoding takes is bounded, however many prompts there are: `MODELS_LOADED` models, and for the rows that
are decoded together no more than `cache_bytes`. A row of t tokens, prompt and answer so far, takes
`t * (sum over the models of 2 * layers * key-value heads * head size * bytes of a number)` for keys and
values, and `vocabulary * (4 * models + 24)` for distributions. A row that has ended leaves at once. As the
others grow, the longest are put back, and go on later from where they were. One row alone may take more than
the bound. On top come the work of one layer at a time, and the activations of `PREFILL_TOKENS` tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from teachers.models.modules import loaded, moved

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import Cache, PreTrainedModel

Join = Callable[..., "torch.Tensor"]
"""logp_BV of each model -> the log-probabilities to draw from, of that shape."""

MODELS_LOADED = 2
"""Most models on the device at a time: an objective joins at most a teacher and its reference."""

PREFILL_TOKENS = 8192
"""Most tokens of prompts that a model reads at once, over all rows."""

HEADROOM_TOKENS = 256
"""Tokens that every row of a new batch has room for, so that none is put back as soon as it is read."""


@dataclass(frozen=True)
class Decoded:
    """One answer: its token ids without the end token, and whether it ended by itself."""

    token_ids: tuple[int, ...]
    finished: bool

    @property
    def tokens(self) -> int:
        """Length in tokens, the end token included."""
        return len(self.token_ids) + self.finished


@dataclass
class _Row:
    """An answer in the making."""

    prompt: Sequence[int]
    random: np.random.Generator | None
    """Gives a number in [0, 1) for each token that is drawn; None takes the likeliest."""
    answer: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.answer]


class MixtureDecoder:
    """Joins any of the named models; loads them as they are needed, `MODELS_LOADED` at a time.

    Args:
        models: name to model folder; all share the vocabulary.
        device: "cpu" or "cuda".
        dtype: name of a torch dtype.
        cache_bytes: most that rows decoded together take, by the formula above.
    """

    def __init__(self, models: dict[str, str], device: str, dtype: str, cache_bytes: int) -> None:
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.paths, self.device, self.dtype = dict(models), torch.device(device), getattr(torch, dtype)
        self.cache_bytes = cache_bytes
        self.models: dict[str, PreTrainedModel] = {}
        """Those that are loaded, the last used last."""

    def decode(
        self,
        names: Sequence[str],
        join: Join,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        end_ids: Sequence[int],
        seed: int | None,
    ) -> list[Decoded]:
        """One answer to each prompt (token ids), drawn at temperature 1, or the likeliest if `seed` is None.

        `join` gets the log-probabilities of the named models in their order. Answers are at most
        `max_tokens` long; those that end earlier stand without their end token. What is drawn for a prompt
        depends on the seed and its place alone, not on what is decoded beside it.
        """
        import torch

        models, ends = self.loaded(names), frozenset(end_ids)
        rows = [_Row(prompt, _random(seed, place)) for place, prompt in enumerate(prompts)]
        waiting = list(rows)
        with torch.inference_mode():
            while waiting:
                waiting.sort(key=lambda row: len(row.ids))
                count = self._fitting(models, [len(row.ids) + HEADROOM_TOKENS for row in waiting])
                batch, waiting = waiting[:count], waiting[count:]
                waiting += self._decode_batch(models, join, batch, max_tokens, ends)
        return [Decoded(tuple(row.answer), row.finished) for row in rows]

    def loaded(self, names: Sequence[str]) -> list[PreTrainedModel]:
        """The named models; others give way to them, those first that were not used for longest."""
        assert len(set(names)) <= MODELS_LOADED, f"{len(names)} models are joined"
        for other in [name for name in self.models if name not in names]:
            if len({*self.models, *names}) > MODELS_LOADED:
                del self.models[other]
        for name in names:
            model = self.models.pop(name, None)
            if model is None:
                model = moved(loaded(self.paths[name], dtype=self.dtype), self.device).eval()
            self.models[name] = model
        return [self.models[name] for name in names]

    def _fitting(self, models: Sequence[PreTrainedModel], lengths: Sequence[int]) -> int:
        """How many of the first rows fit together, at least one; each is as wide as the widest of them."""
        token = sum(token_bytes(model) for model in models)
        fixed = models[0].config.get_text_config().vocab_size * (4 * len(models) + 24)
        count, widest = 0, 0
        for length in lengths:
            widest = max(widest, length)
            if (count + 1) * (widest * token + fixed) > self.cache_bytes:
                break
            count += 1
        return max(1, count)

    def _decode_batch(
        self,
        models: Sequence[PreTrainedModel],
        join: Join,
        rows: list[_Row],
        max_tokens: int,
        ends: frozenset[int],
    ) -> list[_Row]:
        """Goes on with the rows until each has ended or been put back; returns those that were."""
        import torch

        ids_BT, attention_BT = self._left_padded([row.ids for row in rows])
        caches: list[Cache | None] = [None] * len(models)
        put_back: list[_Row] = []
        while True:
            logps = [
                self._next(model, ids_BT, attention_BT, caches, place) for place, model in enumerate(models)
            ]
            tokens = _draw(join(*logps), rows)
            del logps
            for row, token in zip(rows, tokens, strict=True):
                row.finished = token in ends
                row.answer += [] if row.finished else [token]
            going = [i for i, row in enumerate(rows) if not row.finished and len(row.answer) < max_tokens]
            fitting = self._fitting(models, [attention_BT.shape[1] + 1] * len(going))
            put_back += [rows[i] for i in going[fitting:]]
            going = going[:fitting]
            if not going:
                return put_back
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                chosen = torch.tensor(going, device=self.device)
                attention_BT = attention_BT[chosen]
                for cache in caches:
                    assert cache is not None
                    cache.batch_select_indices(chosen)  # pyright: ignore[reportAttributeAccessIssue]
            ids_BT = torch.tensor([row.answer[-1:] for row in rows], device=self.device)
            attention_BT = torch.cat([attention_BT, torch.ones_like(ids_BT)], dim=1)

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """ids_BT and attention_BT."""
        import torch

        width = max(len(prompt) for prompt in prompts)
        ids_BT = torch.zeros(len(prompts), width, dtype=torch.long)
        attention_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, width - len(prompt) :] = torch.tensor(list(prompt))
            attention_BT[row, width - len(prompt) :] = 1
        return ids_BT.to(self.device), attention_BT.to(self.device)

    def _next(
        self,
        model: PreTrainedModel,
        ids_BT: torch.Tensor,
        attention_BT: torch.Tensor,
        caches: list[Cache | None],
        place: int,
    ) -> torch.Tensor:
        """logp_BV of the next token, float32; extends the model's cache, which is at `place`."""
        positions_BT = (attention_BT.cumsum(dim=1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        known, piece = attention_BT.shape[1] - ids_BT.shape[1], max(1, PREFILL_TOKENS // len(ids_BT))
        output: Any = None
        for start in range(0, ids_BT.shape[1], piece):
            part = slice(start, start + piece)
            output = model(
                input_ids=ids_BT[:, part],
                attention_mask=attention_BT[:, : known + start + piece],
                position_ids=positions_BT[:, part],
                past_key_values=caches[place],
                use_cache=True,
                logits_to_keep=1,
            )
            caches[place] = output.past_key_values
        return output.logits[:, -1].float().log_softmax(dim=-1)


def token_bytes(model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values, over all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_size * model.dtype.itemsize


def _random(seed: int | None, place: int) -> np.random.Generator | None:
    """The random numbers of the answer at this place."""
    import numpy as np

    if seed is None:
        return None
    digest = hashlib.sha256(json.dumps([seed, place]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _draw(logp_BV: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
    """A token for each row: the first at which the distribution's sum passes the row's next number."""
    import torch

    numbers = [row.random.random() for row in rows if row.random is not None]
    if not numbers:
        return logp_BV.argmax(dim=-1).tolist()
    sums_BV = logp_BV.double().exp().cumsum(dim=-1)
    wanted_B1 = torch.tensor(numbers, dtype=torch.float64, device=logp_BV.device)[:, None] * sums_BV[:, -1:]
    return (
        torch.searchsorted(sums_BV, wanted_B1, right=True).squeeze(1).clamp(max=logp_BV.shape[1] - 1).tolist()
    )
