"""One process that holds the reference and every teacher, and reads their log-probabilities.

Teacher and reference go through the same code on the same device, so that numerical differences cancel
in T - B. Models of one architecture and size share one module: their weights lie in host memory and take
turns in it. On a CPU a turn is a change of pointers; on a GPU it is one copy, made once for all rollouts that
wait for that model. Other architectures have modules of their own. LoRA adapters lie on one base and are
switched on and off in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teachers.adapters import Adapters, is_adapter
from teachers.canary import Canary
from teachers.scored import Scored, Target, largest, targets_of, unpack

if TYPE_CHECKING:
    import torch

UNIMPORTANT_SETTINGS = (
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "max_position_embeddings",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Settings of a model that change none of its log-probabilities."""

LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings by which Gemma 2, Cohere and Granite models change logits after the head."""

ROWS_PER_CHUNK = 2048
"""Token positions whose logits exist at the same time: never a [batch, tokens, vocabulary] buffer."""

LOGITS_PER_CHUNK = 2**26
"""Logits of one model that exist at the same time where whole distributions are compared (256 MiB)."""

BASE = "base of adapters"
"""Name of the adapters' base where it is none of the models that are read."""

Head = Callable[["torch.Tensor"], "torch.Tensor"]
"""Hidden states, [positions, width] -> logits, [positions, vocabulary]."""

Optimum = Callable[..., "torch.Tensor"]
"""Log-probabilities of the teacher and, if it is read, of the reference, [positions, vocabulary] -> log q."""


def _settings(config) -> dict:
    """All of a model's settings that its module keeps, such as the rotary base."""
    return {key: value for key, value in config.to_dict().items() if key not in UNIMPORTANT_SETTINGS}


@dataclass
class _Seat:
    """A module on the device, in which all models of its architecture and size take turns."""

    module: torch.nn.Module
    settings: dict
    shapes: dict[str, torch.Size]
    current: str | None
    """The full model whose weights are in the module; None while they are in doubt."""
    adapters: Adapters


class SharedScorer:
    """Log-probabilities of rollouts under any of several models.

    Args:
        models: name to folder of a model, or of an adapter on `base`; all share the tokenizer and the
            vocabulary's size.
        device: "cpu" or "cuda".
        dtype: name of a torch dtype, such as "float32".
        tokens_per_batch: most padded tokens in one forward pass.
        canary: read a few fixed tokens at load and after every swap, and compare (`teachers.canary`).
        base: folder of the model that adapters lie on; read, and held once, where there are any.

    Raises ValueError where an adapter has no base, where a model's vocabulary has another size than the first
    one's, where the model does more to its logits than its output head, or, with `canary`, where its
    log-probabilities are not finite.
    """

    def __init__(
        self,
        models: dict[str, str],
        device: str,
        dtype: str,
        tokens_per_batch: int,
        canary: bool = True,
        base: str | None = None,
    ):
        import torch

        self.device, self.tokens_per_batch = torch.device(device), tokens_per_batch
        self.dtype = getattr(torch, dtype)
        self.canary = Canary() if canary else None
        self.weights: dict[str, dict[str, torch.Tensor]] = {}
        self.seats: list[_Seat] = []
        self.seat_of: dict[str, _Seat] = {}
        self.current: str | None = None
        """The model that was read last."""
        self.passes: Counter[str] = Counter()
        self.adapter_of: dict[str, str] = {}
        """Name of each adapter among those on its base."""
        self.full_of: dict[str, str] = {}
        """Name of the full model that each model is, or is an adapter on."""
        adapters = {name: path for name, path in models.items() if is_adapter(path)}
        for name, path in models.items():
            if name not in adapters:
                self._load(name, path)
        if adapters:
            self._load_adapters(adapters, base, models)

    @property
    def module(self) -> torch.nn.Module:
        """The module of the model that was read last."""
        return self.seat_of[self.current].module

    def score(self, model: str, sequences: list[Scored]) -> list[torch.Tensor]:
        """Per sequence a float32 tensor [tokens]: position t holds log p(token t+1 | tokens <= t).

        Only the positions that score response tokens are filled; the others are 0.
        """
        self._use(model)
        self.passes[model] += len(sequences)
        rows: list[torch.Tensor | None] = [None] * len(sequences)
        for batch in self._batches(sequences):
            for index, row in zip(batch, self._score_batch([sequences[i] for i in batch]), strict=True):
                rows[index] = row
        return rows

    def _load(self, name: str, path: str) -> None:
        from transformers import AutoModelForCausalLM

        module = AutoModelForCausalLM.from_pretrained(
            path, dtype=self.dtype, attn_implementation="sdpa"
        ).eval()
        if changed := [key for key in LOGIT_SETTINGS if getattr(module.config, key, None) not in (None, 1.0)]:
            raise ValueError(
                f"model {name!r} at {path} changes its logits after the output head ({', '.join(changed)}), "
                "which the shared scorer does not do; use scorer.kind: pool"
            )
        vocabulary = module.config.vocab_size
        if self.seats and vocabulary != (first := self.seats[0].module.config.vocab_size):
            raise ValueError(
                f"model {name!r} at {path} has a vocabulary of {vocabulary}, the scorer's first model one of "
                f"{first}; their log-probabilities cannot be compared"
            )
        self.weights[name] = {key: value.detach() for key, value in module.state_dict().items()}
        if self.canary:
            # in its own module and not in the shared one: a swap that goes wrong would go wrong here too
            self.canary.remember(name, path, module.to(self.device))
        self.seat_of[name] = self._seat(name, module)
        self.full_of[name] = name
        self.current = self.current or name

    def _load_adapters(self, adapters: dict[str, str], base: str | None, models: dict[str, str]) -> None:
        """Puts the adapters on the base, which may be one of the models itself."""
        if base is None:
            raise ValueError(f"adapters {sorted(adapters)} need the model that they lie on (base)")
        full = next(
            (name for name, path in models.items() if Path(path).resolve() == Path(base).resolve()), BASE
        )
        if full == BASE:
            self._load(full, base)
        seat = self.seat_of[full]
        for number, (name, path) in enumerate(adapters.items()):
            self.adapter_of[name] = f"adapter_{number}"
            seat.adapters.add(self.adapter_of[name], path)
            self.seat_of[name], self.full_of[name] = seat, full
            if self.canary:
                self._use(full)
                seat.adapters.switch(self.adapter_of[name])
                self.canary.remember(name, path, seat.module)
                seat.adapters.switch(None)

    def _check_adapter(self, model: str, seat: _Seat) -> None:
        try:
            self.canary.check(model, seat.module)
        except ValueError:
            seat.adapters.switch(None)  # a second try is checked again
            raise

    def _seat(self, name: str, module: torch.nn.Module) -> _Seat:
        """The seat that fits the model, else a new one, with the model in it."""
        shapes = {key: value.shape for key, value in self.weights[name].items()}
        settings = _settings(module.config)
        for seat in self.seats:
            if (seat.shapes, seat.settings) == (shapes, settings):
                return seat
        module = module.requires_grad_(False).to(self.device)
        self.seats.append(_Seat(module, settings, shapes, name, Adapters(module)))
        return self.seats[-1]

    def _use(self, model: str) -> None:
        seat, full = self.seat_of[model], self.full_of[model]
        if seat.current != full:
            seat.current = None
            seat.adapters.load_full(self.weights[full], assign=self.device.type == "cpu")
            seat.adapters.switch(None)
            if self.canary:
                self.canary.check(full, seat.module)
            seat.current = full
        adapter = self.adapter_of.get(model)
        if adapter != seat.adapters.current:
            seat.adapters.switch(adapter)
            if self.canary and adapter is not None:
                self._check_adapter(model, seat)
        self.current = model

    def _batches(self, sequences: list[Scored]) -> list[list[int]]:
        """Indices grouped by similar length, each group within `tokens_per_batch` padded tokens."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].token_ids))
        batches: list[list[int]] = []
        for index in order:
            width = len(sequences[index].token_ids)
            if not batches or (len(batches[-1]) + 1) * width > self.tokens_per_batch:
                batches.append([])
            batches[-1].append(index)
        return batches

    def _score_batch(self, sequences: list[Scored]) -> list[torch.Tensor]:
        import torch

        with torch.inference_mode():
            logp = self._token_logp(*self._hidden(sequences)).cpu()
        return unpack(sequences, logp)

    def _hidden(self, sequences: list[Scored]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states of the current model where responses are scored, [positions, width], and the
        tokens that follow there, [positions]."""
        import torch

        ids, attention = self._padded_inputs(sequences)
        hidden = self.module.base_model(input_ids=ids, attention_mask=attention, use_cache=False)[0]
        places = torch.tensor(
            [(b, t) for b, sequence in enumerate(sequences) for t in sequence.scoring_positions],
            dtype=torch.long,
            device=self.device,
        ).view(-1, 2)
        row_of, column_of = places.unbind(dim=1)
        return hidden[row_of, column_of], ids[row_of, column_of + 1]

    def _padded_inputs(self, sequences: list[Scored]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        width = max(len(s.token_ids) for s in sequences)
        ids = torch.zeros(len(sequences), width, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.token_ids)] = torch.tensor(sequence.token_ids)
            attention[row, : len(sequence.token_ids)] = 1
        return ids.to(self.device), attention.to(self.device)

    def _token_logp(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        """log softmax of the vocabulary head at the targets, [positions], in chunks of positions."""
        import torch

        head = self.module.get_output_embeddings()
        pieces = []
        for hidden, target in zip(
            hidden_ND.split(ROWS_PER_CHUNK), targets_N.split(ROWS_PER_CHUNK), strict=True
        ):
            logits = head(hidden).float()
            chosen = logits.gather(1, target[:, None]).squeeze(1)
            pieces.append(chosen - logits.logsumexp(dim=-1))
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def targets(
        self, models: list[str], optimum: Optimum, sequences: list[Scored], top_k: int | None = None
    ) -> list[Target]:
        """log q at every scored position of each sequence, from whole distributions.

        `models` are the teacher and, where the objective reads it, the reference; `optimum` makes log q
        of their log-probabilities [positions, vocabulary]. One pass a model and sequence; logits are made
        for a few positions at a time. `top_k` keeps the K likeliest tokens of q and the rest as one.
        """
        import torch

        batches = self._batches(sequences)
        hidden: list[list[torch.Tensor]] = []
        targets: list[Target | None] = [None] * len(sequences)
        with torch.inference_mode():
            for model in models:  # each model takes its turn once
                self._use(model)
                self.passes[model] += len(sequences)
                found = [self._hidden([sequences[i] for i in batch]) for batch in batches]
                hidden.append([states for states, _ in found])
            heads = [self._head(model) for model in models]
            for number, batch in enumerate(batches):
                states = [(head, of_model[number]) for head, of_model in zip(heads, hidden, strict=True)]
                columns = self._distributions(states, found[number][1], optimum, top_k)
                members = [sequences[i] for i in batch]
                for index, target in zip(batch, targets_of(members, columns), strict=True):
                    targets[index] = target
        return targets

    def _distributions(
        self,
        states: list[tuple[Head, torch.Tensor]],
        tokens_N: torch.Tensor,
        optimum: Optimum,
        top_k: int | None,
    ) -> dict[str, torch.Tensor]:
        """The columns of a `Target` for all positions of a batch, [positions, ...], on the host.

        `states` holds each model's output head and its hidden states, [positions, width].
        """
        import torch

        rows = max(1, min(ROWS_PER_CHUNK, LOGITS_PER_CHUNK // self.module.config.vocab_size))
        pieces: list[dict[str, torch.Tensor]] = []
        for start in range(0, max(1, len(tokens_N)), rows):
            part = slice(start, start + rows)
            logp = [head(hidden[part]).float().log_softmax(-1) for head, hidden in states]
            chosen = [values.gather(1, tokens_N[part, None]).squeeze(1) for values in logp]
            log_q = optimum(*logp)
            piece = {"teacher_logp": chosen[0], "reference_logp": chosen[-1], "logp": log_q}
            if top_k is not None:
                piece |= largest(log_q, top_k)
            pieces.append({name: value.cpu() for name, value in piece.items()})
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _head(self, model: str) -> Head:
        """A model's output head, with its weights on the device, whichever model is in the module."""
        from torch.func import functional_call

        module = self.seat_of[model].module
        head = module.get_output_embeddings()
        prefix = next(name for name, part in module.named_modules() if part is head)
        weights = self.weights[self.full_of[model]]  # an adapter leaves the head as it is
        own = {name: weights[f"{prefix}.{name}"].to(self.device) for name, _ in head.named_parameters()}
        return lambda hidden: functional_call(head, own, (hidden,))
