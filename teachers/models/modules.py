"""Loaded transformers models, with the types that transformers leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.words import counted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Model = TypeVar("Model", bound=PreTrainedModel)


WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")
"""What compiling and sharding put into tensors' names."""


def told_of_tensors(architecture: str, info: dict[str, Any]) -> str:
    """What transformers says of the tensors, in words; empty where they are those of the architecture."""
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        wrapped = [name for name in unexpected if any(f".{part}" in f".{name}" for part in WRAPPERS)]
        named = f"; {wrapped[0]} is there, as a wrapper of its training named it" if wrapped else ""
        return (
            f"its files lack {counted(len(missing), 'tensor')} of a {architecture}, such as {missing[0]}; "
            f"transformers would fill them with random numbers{named}"
        )
    if unexpected:
        return (
            f"its files hold {counted(len(unexpected), 'tensor')} that a {architecture} has no place for, "
            f"such as {unexpected[0]}; it is another model than config.json says"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        name, there, wanted = mismatched[0]
        return (
            f"{name} has the shape {list(there)} in its files, and config.json makes it {list(wanted)}; "
            "it is another model than config.json says"
        )
    return ""


def refuse_not_finite(module: PreTrainedModel, path: str | Path) -> None:
    """Raises ValueError for a weight that is NaN or infinite."""
    for name, weight in module.state_dict().items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise ValueError(f"{path}: {name} holds numbers that are not finite (NaN or infinity)")


def loaded(path: str | Path, **options: Any) -> PreTrainedModel:
    """The causal language model in a folder; `options` are transformers'.

    Raises ValueError where the files are not exactly its tensors (transformers fills what is missing with
    random numbers), or hold numbers that are not finite.
    """
    from transformers import AutoModelForCausalLM

    found: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
    model, info = found
    if problem := told_of_tensors(type(model).__name__, info):
        raise ValueError(f"{path}: {problem}")
    refuse_not_finite(model, path)
    return model


def moved(module: Model, to: torch.device | torch.dtype | str) -> Model:
    """The model itself, on this device or in this number format."""
    return module.to(to)  # pyright: ignore[reportArgumentType]  (transformers' wrapper of `to` hides its self)


def output_head(module: PreTrainedModel) -> torch.nn.Module:
    """The layer that turns hidden states into logits."""
    head = module.get_output_embeddings()
    assert head is not None, f"{type(module).__name__} is no language model"
    return head
