"""Weights in host memory that every process of a machine shares.

A safetensors file is mapped, not read: its pages are the kernel's, and are in memory once however many
processes map them. transformers maps a file that holds the wanted number format, so such a model takes no
further memory in a second process. Everything else is private to the process that loaded it: weights that
were converted to another format, torch's own files, experts that transformers merges. Those are written once,
as they were loaded, and mapped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import new_file
from common.locks import lock

if TYPE_CHECKING:
    import torch


def shared_weights(weights: Mapping[str, torch.Tensor], file: Path | None) -> Mapping[str, torch.Tensor]:
    """The same weights, mapped from a file where they are private to this process.

    The first caller writes `file`; later ones, in other processes too, must hold the same weights and map it.
    None leaves the weights as they are.
    """
    if file is None or not private_bytes(weights):
        return weights
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock(file.with_suffix(".lock"), "", lambda _holder: None):
        if not file.exists():
            _write(weights, file)
    return _mapped(weights, file)


def private_bytes(weights: Mapping[str, torch.Tensor]) -> int:
    """Bytes of these weights that no file backs; a storage that several share counts once."""
    spans = sorted(_file_spans())
    starts = [start for start, _ in spans]
    found = 0
    for weight in _unique(weights).values():
        place = bisect_right(starts, weight.data_ptr()) - 1
        if weight.numel() and (place < 0 or weight.data_ptr() >= spans[place][1]):
            found += weight.numel() * weight.element_size()
    return found


def _file_spans() -> Iterator[tuple[int, int]]:
    """First and last address of every part of this process's memory that is a file's."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _rights, _offset, _device, inode = line.split(maxsplit=5)[:5]
        if inode != "0":
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)


def _write(weights: Mapping[str, torch.Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    with new_file(file) as unfinished:
        save_file({name: weight.contiguous() for name, weight in _unique(weights).items()}, unfinished)


def _mapped(weights: Mapping[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    first_names = {_place(weight): name for name, weight in _unique(weights).items()}
    with safe_open(file, framework="pt") as tensors:
        stored = {name: tensors.get_tensor(name) for name in first_names.values()}
    return {name: stored[first_names[_place(weight)]] for name, weight in weights.items()}


def _unique(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without those that are another one under a second name, such as a tied output layer."""
    firsts: dict[tuple[int, ...], str] = {}
    for name, weight in weights.items():
        firsts.setdefault(_place(weight), name)
    return {name: weights[name] for name in firsts.values()}


def _place(weight: torch.Tensor) -> tuple[int, ...]:
    return (weight.data_ptr(), *weight.shape)
