"""One process that holds the reference and every teacher, and reads their log-probabilities.

Teacher and reference go through the same code on the same device, so that numerical differences cancel
in T - B. Models of one architecture and size share one module: their weights lie in host memory, mapped from
their files, and take turns in it. On a CPU a turn is a change of pointers; on a GPU it is one copy, made once
for all rollouts that wait for that model. Other architectures have modules of their own. LoRA adapters lie on
one base and are switched on and off in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachers.models.adapters import Adapters, is_adapter
from teachers.models.modules import loaded, moved, output_head
from teachers.scoring.canary import Canary
from teachers.scoring.host_weights import shared_weights
from teachers.scoring.packs import Pack, in_packs, in_waves, packed
from teachers.scoring.scored import Scored, Target, largest, targets_of, unpack
from teachers.scoring.seat import Seat, Weights
from teachers.scoring.staging import staging_for
from trainer.engine.attention import attention_of, register_packed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

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
"""Logits of one model that exist at the same time: 256 MiB, 441 positions of a vocabulary of 151,936."""

HIDDEN_BYTES = 2**31
"""Hidden states that wait on the device while the models that are compared take their turns."""

BASE = "base of adapters"
"""Name of the adapters' base where it is none of the models that are read."""

Head = Callable[["torch.Tensor"], "torch.Tensor"]
"""hidden_ND -> logits_NV."""

Optimum = Callable[..., "torch.Tensor"]
"""logp_NV of those of teacher and reference that are read -> log_q_NV."""


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """All of a model's settings that its module keeps, such as the rotary base."""
    return {key: value for key, value in config.to_dict().items() if key not in UNIMPORTANT_SETTINGS}


class SharedScorer:
    """Log-probabilities of rollouts under any of several models.

    Args:
        models: name to folder of a model, or of an adapter on `base`; all share the tokenizer and the
            vocabulary's size.
        device: "cpu" or "cuda".
        dtype: name of a torch dtype, such as "float32".
        tokens_per_batch: most tokens in one forward pass, whose sequences are packed without padding; a
            longer sequence has a pass of its own.
        canary: read a few fixed tokens at load and after every swap, and compare (`teachers.scoring.canary`).
        base: folder of the model that adapters lie on; read, and held once, where there are any.
        shared: folder where scorers in several processes share the weights that cannot be mapped from their
            own files; all read the same models in the same number format. By default each has its own.

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
        shared: Path | None = None,
    ) -> None:
        import torch

        self.device, self.tokens_per_batch = torch.device(device), tokens_per_batch
        self.dtype = getattr(torch, dtype)
        self.canary = Canary() if canary else None
        self.shared, self.staging = shared, staging_for(self.device)
        self.weights: dict[str, Weights] = {}
        self.seats: list[Seat] = []
        self.seat_of: dict[str, Seat] = {}
        self.current: str | None = None
        """The model that was read last."""
        self.passes: Counter[str] = Counter()
        self.swaps = 0
        """How often a full model's weights were put into a module."""
        self.releases = 0
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
    def module(self) -> PreTrainedModel:
        """The module of the model that was read last."""
        assert self.current is not None, "no model was loaded"
        return self.seat_of[self.current].module

    def score(self, model: str, sequences: list[Scored]) -> list[torch.Tensor]:
        """Per sequence logp_T, float32: position t holds log p(token t+1 | tokens <= t).

        Only the positions that score response tokens are filled; the others are 0.
        """
        self._use(model)
        self.passes[model] += len(sequences)
        rows: dict[int, torch.Tensor] = {}
        for batch in self.batches(sequences):
            rows |= zip(batch, self._score_batch([sequences[i] for i in batch]), strict=True)
        return [rows[index] for index in range(len(sequences))]

    def held(self) -> frozenset[str]:
        """The models that can be read without a swap: whose weights, or whose base's, are in a module."""
        return frozenset(name for name, seat in self.seat_of.items() if seat.current == self.full_of[name])

    def release(self) -> None:
        """Gives back the device's memory of all full models, until one is read again. Adapters stay there.

        On a CPU, where modules hold the host's weights, there is nothing to give back.
        """
        import torch

        self.releases += 1
        for seat in self.seats:
            seat.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, name: str, path: str) -> None:
        from transformers import AutoConfig

        vocabulary = AutoConfig.from_pretrained(path).vocab_size
        if self.seats and vocabulary != (first := self.seats[0].module.config.vocab_size):
            raise ValueError(
                f"model {name!r} at {path} has a vocabulary of {vocabulary}, the scorer's first model one of "
                f"{first}; their log-probabilities cannot be compared"
            )
        register_packed()
        attention = attention_of(self.device.type, str(self.dtype).removeprefix("torch."))
        module = loaded(path, dtype=self.dtype, attn_implementation=attention).eval()
        if changed := [key for key in LOGIT_SETTINGS if getattr(module.config, key, None) not in (None, 1.0)]:
            raise ValueError(
                f"model {name!r} at {path} changes its logits after the output head ({', '.join(changed)}), "
                "which the shared scorer does not do; use scorer.kind: pool"
            )
        weights = {key: value.detach() for key, value in module.state_dict().items()}
        if self.canary:
            # in its own module and not in the shared one: a swap that goes wrong would go wrong here too
            self.canary.remember(name, path, moved(module, self.device))
        file = None if self.shared is None else self.shared / f"{name}.safetensors"
        self.weights[name] = shared_weights(weights, file)
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
            self._use(full)  # an adapter goes to the device where the module is
            self.adapter_of[name] = f"adapter_{number}"
            seat.adapters.add(self.adapter_of[name], path)
            self.seat_of[name], self.full_of[name] = seat, full
            if self.canary:
                seat.adapters.switch(self.adapter_of[name])
                self.canary.remember(name, path, seat.module)
                seat.adapters.switch(None)

    def _check_adapter(self, canary: Canary, model: str, seat: Seat) -> None:
        try:
            canary.check(model, seat.module)
        except ValueError:
            seat.adapters.switch(None)  # a second try is checked again
            raise

    def _seat(self, name: str, module: PreTrainedModel) -> Seat:
        """The seat that fits the model, else a new one, with the model in it."""
        shapes = {key: value.shape for key, value in self.weights[name].items()}
        settings = _settings(module.config)
        for seat in self.seats:
            if (seat.shapes, seat.settings) == (shapes, settings):
                return seat
        module = moved(module.requires_grad_(False), self.device)
        seat = Seat(module, settings, shapes, Adapters(module), self.staging, self.weights[name], name)
        self.seats.append(seat)
        return seat

    def _use(self, model: str) -> None:
        seat, full = self.seat_of[model], self.full_of[model]
        if seat.current != full:
            seat.current = None
            seat.take(self.weights[full])
            self.swaps += 1
            seat.adapters.switch(None)
            if self.canary:
                self.canary.check(full, seat.module)
            seat.current = full
        adapter = self.adapter_of.get(model)
        if adapter != seat.adapters.current:
            seat.adapters.switch(adapter)
            if self.canary and adapter is not None:
                self._check_adapter(self.canary, model, seat)
        self.current = model

    def batches(self, sequences: list[Scored]) -> list[Pack]:
        """Sequences that go through the module together."""
        return in_packs(sequences, self.tokens_per_batch)

    def _score_batch(self, sequences: list[Scored]) -> list[torch.Tensor]:
        import torch

        with torch.inference_mode():
            logp_N = self._token_logp(*self._hidden(sequences)).cpu()
        return unpack(sequences, logp_N)

    def _hidden(self, sequences: list[Scored]) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_ND, the current model's last hidden states where responses are scored, and tokens_N, the
        tokens that follow there."""

        ids_J, positions_J, places_N = packed(sequences, self.device)
        hidden_1JD = self.module.base_model(
            input_ids=ids_J[None], position_ids=positions_J[None], use_cache=False
        )[0]
        return hidden_1JD[0, places_N], ids_J[places_N + 1]

    def _token_logp(self, hidden_ND: torch.Tensor, tokens_N: torch.Tensor) -> torch.Tensor:
        """logp_N of these tokens by the vocabulary head, in chunks of positions."""
        import torch

        head, rows = output_head(self.module), self._rows_at_once()
        pieces = []
        for part_ND, part_N in zip(hidden_ND.split(rows), tokens_N.split(rows), strict=True):
            logits_NV = head(part_ND).float()
            chosen_N = logits_NV.gather(1, part_N[:, None]).squeeze(1)
            pieces.append(chosen_N - logits_NV.logsumexp(dim=-1))
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def _rows_at_once(self) -> int:
        """Positions whose logits exist at the same time."""
        return max(1, min(ROWS_PER_CHUNK, LOGITS_PER_CHUNK // self.module.config.vocab_size))

    def targets(
        self, models: list[str], optimum: Optimum, sequences: list[Scored], top_k: int | None = None
    ) -> list[Target]:
        """log q at every scored position of each sequence, from whole distributions.

        `models` are those of teacher and reference that the objective reads, in this order; `optimum` makes
        log_q_NV of their logp_NV. One pass a model and sequence; logits are
        made for a few positions at a time. `top_k` keeps the K likeliest tokens of q and the rest as one.
        """
        import torch

        targets: dict[int, Target] = {}
        with torch.inference_mode():
            for wave in in_waves(self.batches(sequences), sequences, self._positions_that_wait(models)):
                hidden = [self._read(model, wave, sequences) for model in models]  # each takes its turn once
                heads = [self._head(model) for model in models]
                for batch, *of_models in zip(wave, *hidden, strict=True):
                    states = [
                        (head, hidden_ND) for head, (hidden_ND, _) in zip(heads, of_models, strict=True)
                    ]
                    columns = self._distributions(states, of_models[0][1], optimum, top_k)
                    targets |= zip(batch, targets_of([sequences[i] for i in batch], columns), strict=True)
        return [targets[index] for index in range(len(sequences))]

    def _positions_that_wait(self, models: list[str]) -> int:
        """Scored positions whose hidden states under all these models fit into `HIDDEN_BYTES`."""
        width = sum(self.seat_of[model].module.config.hidden_size for model in models)
        return HIDDEN_BYTES // (width * self.dtype.itemsize)

    def _read(
        self, model: str, batches: list[Pack], sequences: list[Scored]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`_hidden` of each batch under a model."""
        self._use(model)
        self.passes[model] += sum(len(batch) for batch in batches)
        return [self._hidden([sequences[i] for i in batch]) for batch in batches]

    def _distributions(
        self,
        states: list[tuple[Head, torch.Tensor]],
        tokens_N: torch.Tensor,
        optimum: Optimum,
        top_k: int | None,
    ) -> dict[str, torch.Tensor]:
        """The columns of a `Target` for all positions of a batch, [N, ...], on the host.

        `states` holds each model's output head and its hidden_ND.
        """
        import torch

        rows = self._rows_at_once()
        pieces: list[dict[str, torch.Tensor]] = []
        for start in range(0, max(1, len(tokens_N)), rows):
            part = slice(start, start + rows)
            logps = [head(hidden_ND[part]).float().log_softmax(-1) for head, hidden_ND in states]
            chosen = [logp_NV.gather(1, tokens_N[part, None]).squeeze(1) for logp_NV in logps]
            log_q_NV = optimum(*logps)
            piece = {"teacher_logp_T": chosen[0], "reference_logp_T": chosen[-1], "log_q_TV": log_q_NV}
            if top_k is not None:
                piece |= largest(log_q_NV, top_k)
            pieces.append({name: value.cpu() for name, value in piece.items()})
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _head(self, model: str) -> Head:
        """A model's output head, with its weights on the device, whichever model is in the module."""
        from torch.func import functional_call

        module = self.seat_of[model].module
        head = output_head(module)
        prefix = next(name for name, part in module.named_modules() if part is head)
        weights = self.weights[self.full_of[model]]  # an adapter leaves the head as it is
        own = {name: weights[f"{prefix}.{name}"].to(self.device) for name, _ in head.named_parameters()}
        return lambda hidden_ND: functional_call(head, own, (hidden_ND,))
