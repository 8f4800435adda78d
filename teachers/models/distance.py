"""How far an expert's weights are from its base's: read block by block, so that memory stays small."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from teachers.models import adapters, files

if TYPE_CHECKING:
    import torch

BLOCK = 2**24
"""Most numbers of a tensor that are read at once, in float64."""

TIED = "lm_head.weight"
"""A copy of the embedding that some files hold and others leave out."""


@dataclass(frozen=True)
class _Part:
    """One tensor: its squared norm in the base, and that of what the expert adds to it."""

    name: str
    base: float
    change: float


def weight_distance(base: Path, expert: Path) -> dict[str, Any]:
    """The distance of an expert, a full model or an adapter on the base, from its base.

    `relative_l2` is ||W_expert - W_base|| / ||W_base|| over all tensors, `changed_share` the share of tensors
    that differ at all, `tensors` their number, `largest` the tensor with the largest relative change of its
    own (`name`, `relative_l2`), None where nothing changed. Where the tensors cannot be compared, the one
    entry is `not_measured`, the reason.
    """
    if adapters.is_adapter(expert):
        parts = _adapter_parts(base, expert)
    else:
        ours, theirs = _places(base), _places(expert)
        if not ours or not theirs:
            return {"not_measured": "no safetensors"}
        if (TIED in ours) != (TIED in theirs):
            ours.pop(TIED, None), theirs.pop(TIED, None)
        shapes = [{name: shape for name, (_, shape) in places.items()} for places in (ours, theirs)]
        if shapes[0] != shapes[1]:
            return {"not_measured": "other shapes"}
        parts = _full_parts(ours, theirs)
    return _summary(list(parts))


def refuse_not_finite(folder: Path, name: str) -> None:
    """Raises ConfigError for weights of a model or adapter that are NaN or infinite; of safetensors alone."""
    places = _places(folder)
    with ExitStack() as stack:
        reader = _Reader(stack)
        for tensor in sorted(places):
            if not all(bool(block_P.isfinite().all()) for block_P in reader.blocks(tensor, *places[tensor])):
                raise ConfigError(
                    f"{name} ({folder}): {tensor} holds numbers that are not finite (NaN or infinity)"
                )


def is_unchanged(distance: Mapping[str, Any]) -> bool:
    """Whether the distance says that the expert is its base."""
    return distance.get("changed_share") == 0


def _summary(parts: list[_Part]) -> dict[str, Any]:
    changed = [part for part in parts if part.change != 0]
    if not all(math.isfinite(part.base + part.change) for part in parts):
        return {"not_measured": "weights that are no finite numbers"}
    largest = max(changed, key=lambda part: _relative(part) or math.inf, default=None)
    whole = math.fsum(part.base for part in parts)
    moved = math.fsum(part.change for part in parts)
    return {
        "relative_l2": _relative(_Part("", whole, moved)),
        "changed_share": len(changed) / len(parts),
        "tensors": len(parts),
        "largest": None if largest is None else {"name": largest.name, "relative_l2": _relative(largest)},
    }


def _relative(part: _Part) -> float | None:
    """None for a change of nothing but zeros, which has no relative size."""
    if part.base == 0:
        return 0.0 if part.change == 0 else None
    return math.sqrt(part.change / part.base)


Places = dict[str, tuple[Path, list[int]]]
"""File and shape of every tensor, by name."""


def _places(folder: Path) -> Places:
    if adapters.is_adapter(folder):
        file = folder / adapters.WEIGHTS
        return {name: (file, shape) for name, shape in files.tensor_shapes([file]).items()}
    found = [file for file in files.weight_files(folder) if file.suffix == ".safetensors"]
    return {name: (file, shape) for file in found for name, shape in files.tensor_shapes([file]).items()}


def _full_parts(base: Places, expert: Places) -> Iterator[_Part]:
    with ExitStack() as stack:
        ours, theirs = _Reader(stack), _Reader(stack)
        for name in sorted(base):
            norm = change = 0.0
            pairs = zip(ours.blocks(name, *base[name]), theirs.blocks(name, *expert[name]), strict=True)
            for before_P, after_P in pairs:
                norm += float(before_P.square().sum())
                change += float((after_P - before_P).square().sum())
            yield _Part(name, norm, change)


def _adapter_parts(base: Path, adapter: Path) -> Iterator[_Part]:
    """Of every tensor of the base; what plain LoRA adds to a layer is scale * B A."""
    from safetensors import safe_open

    settings = files.read_json(adapter / adapters.CONFIG)
    own: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(str(adapter / adapters.WEIGHTS), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (the handle is no mapping)
            match = adapters.TENSOR.fullmatch(name)
            assert match is not None, f"{name}: an adapter that was checked holds LoRA weights only"
            own.setdefault(f"{match['module']}.weight", {})[match["side"]] = file.get_tensor(name).double()
    places = _places(base)
    with ExitStack() as stack:
        reader = _Reader(stack)
        for name in sorted(places):
            norm = sum(float(block_P.square().sum()) for block_P in reader.blocks(name, *places[name]))
            change = 0.0
            if name in own:
                a_QI, b_OQ = own[name]["A"], own[name]["B"]
                scale = _scale(name.removesuffix(".weight"), settings, len(a_QI))
                # ||BA||^2 = trace(B'B AA')
                product_QQ = (b_OQ.T @ b_OQ) * (a_QI @ a_QI.T)
                change = scale**2 * max(0.0, float(product_QQ.sum()))
            yield _Part(name, norm, change)


def _scale(module: str, settings: Mapping[str, Any], rank: int) -> float:
    """peft's factor of B A for one layer."""
    alpha = settings.get("lora_alpha", 8)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


class _Reader:
    """Tensors of safetensors files in float64, some rows at a time; files stay open with the stack."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.open: dict[Path, Any] = {}

    def blocks(self, name: str, file: Path, shape: list[int]) -> Iterator[torch.Tensor]:
        from safetensors import safe_open

        if file not in self.open:
            self.open[file] = self.stack.enter_context(safe_open(str(file), framework="pt"))
        handle = self.open[file]
        if not shape:
            yield handle.get_tensor(name).double()
            return
        rows, part = max(1, BLOCK // max(1, math.prod(shape[1:]))), handle.get_slice(name)
        for start in range(0, shape[0], rows):
            yield part[start : start + rows].double()
