"""From verl's sharded checkpoint to a model folder that transformers and vLLM load as it is.

verl's own merger rounds every weight to bfloat16; a float32 model would not be the one that was trained.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from common.files import new_folder, share
from trainer.job import Lora

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@contextmanager
def imports_beside() -> Iterator[None]:
    """Imports what `export` needs while the block waits for the training whose model comes next."""
    thread = Thread(target=_imports, name="imports for the export")
    thread.start()
    try:
        yield
    finally:
        thread.join()  # a program that ends in the middle of an import may crash


def _imports() -> None:
    for name in ("torch.distributed.tensor", "safetensors.torch", "transformers.models.auto.modeling_auto"):
        importlib.import_module(name)


def export(checkpoints: Path, step: int, base: Path, target: Path, lora: Lora | None = None) -> Path:
    """Writes the model of `global_step_<step>` to `target`, in the base model's number format; of a training
    that trains an adapter on the base, the adapter (`export_adapter`).

    Configuration, generation settings and tokenizer are the base's own files. Raises ValueError if the
    checkpoint's tensors are not exactly the base's.
    """
    if lora is not None:
        return export_adapter(checkpoints, step, base, target, lora)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _quiet()
    weights = _joined_shards(_weights_folder(checkpoints, step))
    config = AutoConfig.from_pretrained(base)
    dtype = config.dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    missing, unexpected = model.load_state_dict({k: v.to(dtype) for k, v in weights.items()}, strict=False)
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise ValueError(
            f"checkpoint {checkpoints} does not hold the tensors of {base}: {missing[:3]} {unexpected[:3]}"
        )
    return save_model(model, base, target)


def export_untrained(base: Path, target: Path) -> Path:
    """Writes the base model itself to `target`, as `export` would write a checkpoint of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _quiet()
    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    return save_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), base, target)


def export_adapter(
    checkpoints: Path, step: int, base: Path, target: Path, lora: Lora, trained: bool = True
) -> Path:
    """Writes the LoRA adapter of `global_step_<step>` to `target` in peft's format, whole or not at all.

    Unless it is `trained`, one on the same layers that adds nothing to the base. Raises ValueError if the
    checkpoint holds anything but an adapter.
    """
    from peft import LoraConfig, TaskType
    from safetensors.torch import save_file

    _quiet()
    weights = _joined_shards(_weights_folder(checkpoints, step))
    ends = tuple(f".lora_{side}.default.weight" for side in "AB")
    others = [name for name in weights if not name.endswith(ends)]
    if others or not weights:
        raise ValueError(f"checkpoint {checkpoints} holds no LoRA adapter alone: {others[:3]}")
    layers = sorted({name.rsplit(".", 4)[1] for name in weights})
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=layers,
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=str(base),
        inference_mode=True,
    )
    with new_folder(target) as folder:
        config.save_pretrained(str(folder))
        # the name of the only adapter is no part of peft's files
        tensors = {name.replace(".default.", "."): value.contiguous() for name, value in weights.items()}
        if not trained:
            tensors |= {name: value * 0 for name, value in tensors.items() if ".lora_B." in name}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        share(folder)
    return target


def save_model(model: PreTrainedModel, base: Path, target: Path) -> Path:
    """Writes a transformers model to `target`, whole or not at all, with the tokenizer files of `base`."""
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            if (base / name).exists():
                shutil.copy2(base / name, folder / name)
        share(folder)
    return target


def _quiet() -> None:
    """No progress bars for reading a few files, and no hint about torch.compile, which is not used."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)


def _weights_folder(checkpoints: Path, step: int) -> Path:
    """verl's `main_ppo` keeps the actor in a folder of its own, its SFT trainer knows no other model."""
    folder = checkpoints / f"global_step_{step}"
    return folder / "actor" if (folder / "actor").exists() else folder


def _joined_shards(folder: Path) -> dict[str, torch.Tensor]:
    """The full tensors of an FSDP2 checkpoint, whatever number of ranks wrote it.

    Raises ValueError where files of ranks are missing, as on a cluster whose nodes do not share the folder.
    """
    import torch

    files = {int(file.stem.rsplit("_", 1)[1]): file for file in folder.glob("model_world_size_*_rank_*.pt")}
    ranks = {int(file.stem.split("_")[3]) for file in files.values()}
    if len(ranks) != 1 or files.keys() != set(range(*ranks)):
        raise ValueError(
            f"checkpoint {folder} holds the files of ranks {sorted(files)} of {sorted(ranks)}: each rank "
            "writes its own, so all nodes must share this folder"
        )
    shards = [torch.load(files[rank], map_location="cpu", weights_only=False) for rank in sorted(files)]
    return {name: _joined([shard[name] for shard in shards]) for name in shards[0]}


def _joined(parts: list) -> torch.Tensor:
    """One tensor of its parts by rank: DTensors with at most one sharded dimension, or plain tensors."""
    import torch

    first = parts[0]
    placements = getattr(first, "placements", ())
    local = [getattr(part, "_local_tensor", part) for part in parts]
    sharded = [place for place, placement in enumerate(placements) if placement.is_shard()]
    if not sharded:
        return local[0]
    # every other dimension of the mesh holds whole copies: those of its first place are taken
    ranks = first.device_mesh.mesh.movedim(sharded[0], -1).flatten(0, -2)[0] if len(placements) > 1 else None
    chosen = local if ranks is None else [local[rank] for rank in ranks.tolist()]
    return torch.cat([tensor for tensor in chosen if tensor.numel()], dim=placements[sharded[0]].dim)
