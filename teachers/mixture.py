"""Answers sampled from a combination of models: next-token distributions are joined, then a token drawn.

The models decode side by side, each with its own cache. What joins their distributions is given by the
caller, so this module knows no objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Join = Callable[..., "torch.Tensor"]
"""Log-probabilities of each model, [rows, vocabulary] -> log-probabilities to draw from."""


@dataclass(frozen=True)
class Decoded:
    """One answer: its token ids without the end token, and whether it ended by itself."""

    token_ids: tuple[int, ...]
    finished: bool

    @property
    def tokens(self) -> int:
        """Length in tokens, the end token included."""
        return len(self.token_ids) + self.finished


class MixtureDecoder:
    """Loads each model once; `decode` may then join any of them.

    Args:
        models: name to model folder; all share the vocabulary.
        device: "cpu" or "cuda".
        dtype: name of a torch dtype.
        rows_per_batch: answers that are decoded together.
    """

    def __init__(self, models: dict[str, str], device: str, dtype: str, rows_per_batch: int = 128):
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.device, self.rows_per_batch = torch.device(device), rows_per_batch
        self.models = {
            name: AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(device).eval()
            for name, path in models.items()
        }

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
        `max_tokens` long; those that end earlier stand without their end token.
        """
        import torch

        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        answers: list[Decoded | None] = [None] * len(prompts)
        with torch.inference_mode():
            for start in range(0, len(order), self.rows_per_batch):
                batch = order[start : start + self.rows_per_batch]
                rows = [prompts[place] for place in batch]
                decoded = self._decode_batch(names, join, rows, max_tokens, end_ids, generator)
                for place, answer in zip(batch, decoded, strict=True):
                    answers[place] = answer
        return answers

    def _decode_batch(self, names, join, prompts, max_tokens, end_ids, generator) -> list[Decoded]:
        import torch

        ids, attention = self._left_padded(prompts)
        ends = torch.tensor(list(end_ids), device=self.device)
        caches: dict[str, object] = dict.fromkeys(names)
        drawn: list[torch.Tensor] = []
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        for _ in range(max_tokens):
            logp = [self._next(name, ids, attention, caches) for name in names]
            token = _draw(join(*logp), generator)
            drawn.append(token)
            ended |= torch.isin(token, ends)
            if ended.all():
                break
            ids = token[:, None]
            attention = torch.cat([attention, torch.ones_like(ids)], dim=1)
        return [_until_end(row, set(end_ids)) for row in torch.stack(drawn, dim=1).tolist()]

    def _left_padded(self, prompts) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            attention[row, width - len(prompt) :] = 1
        return ids.to(self.device), attention.to(self.device)

    def _next(self, name: str, ids, attention, caches: dict[str, object]) -> torch.Tensor:
        """Log-probabilities of the next token, [rows, vocabulary], float32; extends the model's cache."""
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.models[name](
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=caches[name],
            use_cache=True,
            logits_to_keep=1,
        )
        caches[name] = output.past_key_values
        return output.logits[:, -1].float().log_softmax(dim=-1)


def _draw(logp_RV: torch.Tensor, generator) -> torch.Tensor:
    import torch

    if generator is None:
        return logp_RV.argmax(dim=-1)
    return torch.multinomial(logp_RV.exp(), 1, generator=generator).squeeze(1)


def _until_end(tokens: list[int], ends: set[int]) -> Decoded:
    for place, token in enumerate(tokens):
        if token in ends:
            return Decoded(tuple(tokens[:place]), True)
    return Decoded(tuple(tokens), False)
