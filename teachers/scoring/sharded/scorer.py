"""Log-probabilities under models that are too large for one device, read by all ranks together.

Each model takes its turn: all ranks load their shares of its weights, score their own rollouts, and free the
memory. Teacher and reference go through the same code, so that numerical differences cancel in T - B.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from teachers.scoring.canary import Canary
from teachers.scoring.packs import in_packs
from teachers.scoring.scored import Scored, unpack
from teachers.scoring.sharded.module import ShardedModule

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING = Scored((0, 0), 0)
"""What a rank without rollouts reads, so that it takes part in gathering the weights."""


class ShardedScorer:
    """Log-probabilities of rollouts under any of several models, of which one is loaded at a time.

    Args:
        models: name to folder of a full model; all share the tokenizer and the vocabulary's size.
        device: "cpu" or "cuda", of this rank.
        dtype: name of a torch dtype, such as "bfloat16".
        tokens_per_batch: most tokens in one forward pass of a rank, whose sequences are packed without
            padding; a longer sequence has a pass of its own.
        canary: read a few fixed tokens now, and again whenever a model is loaded, and compare
            (`teachers.scoring.canary`).

    Everything but `close` is collective: all ranks of torch's default process group construct the scorer, and
    ask for the same models in the same order. Each model is loaded once at first. Raises ValueError, on all
    ranks, where a model's vocabulary has another size than the first one's, where a model cannot be read by
    shard (`ShardedModule`), where a weight is NaN or infinite, or, with `canary`, where its log-probabilities
    are not finite.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        device: str,
        dtype: str,
        tokens_per_batch: int,
        canary: bool = True,
    ) -> None:
        self.device, self.tokens_per_batch = torch.device(device), tokens_per_batch
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        self.modules = {
            name: ShardedModule(name, path, mesh, getattr(torch, dtype)) for name, path in models.items()
        }
        self.current: str | None = None
        """The model that is loaded."""
        self.passes: Counter[str] = Counter()
        """Sequences that this rank has scored, by model."""
        self.swaps = 0
        """Times that a model was loaded."""
        self.bytes_read = 0
        """Bytes of the models' files that this rank has read."""
        self.canary = Canary(ShardedModule.canary_logp) if canary else None
        self._check_vocabularies()
        for name in models:
            self._use(name, is_first=True)
        self.close()

    def score(self, model: str, sequences: list[Scored]) -> list[torch.Tensor]:
        """Per sequence of this rank logp_T, float32: position t holds log p(token t+1 | tokens <= t).

        Only the positions that score response tokens are filled; the others are 0.
        """
        module = self._use(model)
        self.passes[model] += len(sequences)
        packs = in_packs(sequences, self.tokens_per_batch)
        rows: dict[int, torch.Tensor] = {}
        for pack in [*packs, *[[]] * (self._most(len(packs)) - len(packs))]:
            own = [sequences[place] for place in pack]
            logp_N = module.token_logp(own or [NOTHING]).cpu()
            rows |= zip(pack, unpack(own, logp_N), strict=True)
        return [rows[place] for place in range(len(sequences))]

    def close(self) -> None:
        """Frees all weights; the next `score` loads its model again."""
        if self.current is not None:
            self.modules[self.current].free()
        self.current = None

    def _use(self, model: str, is_first: bool = False) -> ShardedModule:
        module = self.modules[model]
        if self.current != model:
            self.close()
            module.load()
            self.current = model
            self.swaps += 1
            self.bytes_read += module.bytes_per_load
            if is_first:
                module.refuse_not_finite()
            self._read_canary(module)
        return module

    def _read_canary(self, module: ShardedModule) -> None:
        if self.canary is None:
            return
        try:
            if module.name in self.canary.expected:
                self.canary.check(module.name, module)
            else:
                self.canary.remember(module.name, module.path, module)
        except ValueError:
            self.close()  # a second try is checked again
            raise

    def _check_vocabularies(self) -> None:
        first, *others = self.modules.values()
        for module in others:
            if module.config.vocab_size != first.config.vocab_size:
                raise ValueError(
                    f"model {module.name!r} at {module.path} has a vocabulary of {module.config.vocab_size}, "
                    f"the scorer's first model one of {first.config.vocab_size}; their log-probabilities "
                    "cannot be compared"
                )

    def _most(self, passes: int) -> int:
        """Passes of the rank that has most: each gathers weights from all ranks."""
        most = torch.tensor([passes], device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)
