"""Whether a model can follow another in the same engine, and whether its weights really arrived there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from common.reading import read_json

ENGINE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files of a model folder, besides its weights and config.json, that an engine reads once."""

UNIMPORTANT_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Keys of config.json that change nothing about an engine, whose dtype is that of the device."""


def engine_key(folder: Path) -> str:
    """Digest of what an engine is built for; models that share it differ in their weights alone."""
    config = read_json(folder / "config.json", dict[str, Any], "a model's config.json")
    for key in UNIMPORTANT_CONFIG:
        config.pop(key, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in ENGINE_FILES:
        path = folder / name
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
        digest.update(f"\n{name} {content}".encode())
    return digest.hexdigest()


def weights_identity(folder: Path) -> str:
    """Tells a folder's weights from those that were loaded, also after it was written anew."""
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return json.dumps([str(folder), *[[name, s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats]])


def different_parameters(folder: Path, model: Any) -> list[str]:
    """Names of an engine's parameters that are not proven equal to the folder's safetensors.

    A parameter that vLLM packs from several (q, k and v; gate and up) is compared with them in order;
    padding of the vocabulary is left out. A name that the files do not have counts as different.
    """
    import torch

    stored = _StoredTensors(folder)
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    different = []
    for name, parameter in model.named_parameters():
        sources = _source_names(name, packed)
        if not all(source in stored for source in sources):
            different.append(name)
            continue
        expected = torch.cat([stored[source] for source in sources]).to(parameter.device, parameter.dtype)
        rows = expected.shape[0] if _is_padded(name) else parameter.shape[0]
        if not torch.equal(parameter.data[:rows], expected):
            different.append(name)
    return different


def _is_padded(name: str) -> bool:
    """Whether vLLM may give the parameter more rows than the model's vocabulary."""
    return "embed" in name or "lm_head" in name


def _source_names(name: str, packed: dict[str, list[str]]) -> list[str]:
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part in packed:
            return [".".join([*parts[:position], source, *parts[position + 1 :]]) for source in packed[part]]
    return [name]


class _StoredTensors:
    """The tensors of a folder's safetensors files by name, read when asked for."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Any:
        return self._files[name].get_tensor(name)
