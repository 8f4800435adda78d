"""One model for forward passes, with a share of its weights on each rank; unloaded, it takes no memory.

FSDP2 splits every weight by rows. A rank reads its own rows from the memory-mapped files (torch's distributed
checkpointing), so no process ever holds the whole model, and main memory only the page cache of its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from teachers.models.modules import output_head
from teachers.scoring.canary import tokens_for
from teachers.scoring.packs import packed
from teachers.scoring.scored import Scored
from trainer.engine.attention import attention_of, register_packed
from trainer.engine.chunked_head import ChunkedHead, Question, token_logp

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedConfig, PreTrainedModel

ELSEWHERE = "which the sharded scorer does not read; use scorer.kind: shared or pool"


class ShardedModule:
    """A model in Hugging Face format over all ranks of a mesh, unloaded at first.

    Args:
        name: what messages call it.
        path: its folder; its weights lie in safetensors files under the names that its module has.
        mesh: the ranks, in one dimension.
        dtype: number format of the loaded weights, whatever it is in the files.

    Raises ValueError for a model that cannot be read so. `load` and `token_logp` are collective: every rank
    calls them, in the same order.
    """

    def __init__(self, name: str, path: str, mesh: DeviceMesh, dtype: torch.dtype) -> None:
        from transformers import AutoConfig

        self.name, self.path, self.dtype = name, path, dtype
        self.device = torch.device(mesh.device_type)
        self.config: PreTrainedConfig = AutoConfig.from_pretrained(path)
        if getattr(self.config, "quantization_config", None) is not None:
            raise ValueError(f"model {name!r} at {path} has quantized weights, {ELSEWHERE}")
        self.model = self._without_weights()
        if ChunkedHead.replace_in(self.model) is None:
            raise ValueError(
                f"model {name!r} at {path} has no plain output head, or changes its logits after it, "
                f"{ELSEWHERE}"
            )
        self.stored = HuggingFaceStorageReader(path).read_metadata().state_dict_metadata
        self._check_files()
        self.reader = self._sharded(mesh)
        self.storages = [
            (shard.untyped_storage(), shard.untyped_storage().nbytes()) for shard in self._shards().values()
        ]
        self.free()

    @property
    def bytes_per_load(self) -> int:
        """Bytes of the files that this rank reads when it loads the model."""
        return sum(
            (value.to_local() if isinstance(value, DTensor) else value).numel()
            * self.stored[name].properties.dtype.itemsize  # pyright: ignore[reportAttributeAccessIssue]
            for name, value in self._weights().items()
        )

    @torch.no_grad()
    def load(self) -> None:
        """Allocates this rank's share of the weights and reads it."""
        for storage, size in self.storages:
            storage.resize_(size)
        for shard in self._shards().values():
            shard.fill_(float("nan"))  # memory of another model: what is not read must not pass for read
        load(self._weights(), storage_reader=HuggingFaceStorageReader(self.path))

    def refuse_not_finite(self) -> None:
        """Raises ValueError, on all ranks alike, for a weight of the loaded model that is NaN or infinite."""
        shards = self._shards()
        names = list(shards)
        own = (place for place, name in enumerate(names) if not bool(shards[name].isfinite().all()))
        first = torch.tensor([next(own, len(names))], device=self.device)
        dist.all_reduce(first, dist.ReduceOp.MIN)
        if int(first) < len(names):
            raise ValueError(
                f"model {self.name!r} at {self.path}: {names[int(first)]} holds numbers that are not finite "
                "(NaN or infinity)"
            )

    def free(self) -> None:
        """Frees this rank's share of the weights."""
        for storage, _ in self.storages:
            storage.resize_(0)  # FSDP2 keeps references of its own to it

    @torch.no_grad()
    def token_logp(self, sequences: list[Scored]) -> Tensor:
        """logp_N of the response tokens of this rank's sequences, packed into one row, in float32."""
        return self.reader(*packed(sequences, self.device))

    def canary_logp(self) -> Tensor:
        """What `teachers.scoring.canary` compares."""
        tokens = tuple(tokens_for(self.config))
        return self.token_logp([Scored(tokens, len(tokens) - 1)]).cpu()

    def _without_weights(self) -> PreTrainedModel:
        """The model, its weights with shapes and no memory; buffers, which files do not hold, are real."""
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM

        register_packed()
        attention = attention_of(self.device.type, str(self.dtype).removeprefix("torch."))
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                self.config, dtype=self.dtype, attn_implementation=attention
            )
        model.tie_weights()  # moving weights to no memory has untied them
        return model.eval().requires_grad_(False)

    def _check_files(self) -> None:
        wanted = self._weights()
        missing = [name for name in wanted if name not in self.stored]
        if missing:
            raise ValueError(
                f"model {self.name!r} at {self.path}: its safetensors files have no tensor {missing[0]!r} "
                f"({len(missing)} of {len(wanted)} are missing; transformers rearranges the weights of some "
                f"models on loading, such as mixtures of experts), {ELSEWHERE}"
            )
        for name, value in wanted.items():
            size = getattr(self.stored[name], "size", None)
            if size != value.shape:
                raise ValueError(
                    f"model {self.name!r} at {self.path}: tensor {name!r} has shape {_shape(size)} in its "
                    f"files and {_shape(value.shape)} by its config.json"
                )

    def _weights(self) -> dict[str, Tensor]:
        """Everything that is read from files, by name, a tied weight once."""
        own = {name for name, _ in [*self.model.named_parameters(), *self.model.named_buffers()]}
        return {name: value for name, value in self.model.state_dict().items() if name in own}

    def _sharded(self, mesh: DeviceMesh) -> _Reader:
        """The root of FSDP2's groups: each layer, embedding and head are gathered when they compute, and
        given back. Tied, the two are gathered for the whole pass."""
        layers = [part for part in self.model.modules() if type(part).__name__ in _split(self.model)]
        ends = [self.model.get_input_embeddings(), output_head(self.model)]
        if ends[0].weight is ends[1].weight:
            ends = []
        reader = _Reader(self.model)
        for part in (*layers, *ends, reader):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        reader.to_empty(device=self.device)
        for name, value in self.model.named_buffers():
            value.copy_(buffers[name])
        return reader

    def _shards(self) -> dict[str, Tensor]:
        """This rank's rows of every weight, by name; the order is the same on all ranks."""
        named = self.model.named_parameters()
        return {name: value.to_local() for name, value in named if isinstance(value, DTensor)}


class _Reader(nn.Module):
    """A language model with a chunked head that gives log-probabilities."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, ids_J: Tensor, positions_J: Tensor, places_N: Tensor) -> Tensor:
        hidden_1JD = self.model.base_model(
            input_ids=ids_J[None], position_ids=positions_J[None], use_cache=False
        )[0]
        head: Any = output_head(self.model)
        head.question = Question(places_N, {"next_ids": ids_J[places_N + 1]}, {"log_probs": token_logp})
        try:
            return head(hidden_1JD)[0, places_N, 0]
        finally:
            head.question = None


def _split(model: PreTrainedModel) -> set[str]:
    """Names of the classes of its layers."""
    names = set(model._no_split_modules or ())
    if not names:
        raise ValueError(f"{type(model).__name__} does not say what its layers are, so it cannot be sharded")
    return names


def _shape(size: Any) -> list[int]:
    return list(size or ())
