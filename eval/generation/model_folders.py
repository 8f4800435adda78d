"""Folders of models that are evaluated."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from common.digests import file_sha256, json_sha256
from common.errors import ConfigError
from common.models import resolve_model
from common.reading import read_json
from eval.generation.engine_weights import ENGINE_FILES


def evaluated_model(path: str) -> Path:
    """Local folder of a model given as folder or hub name (downloaded if it is not in the cache).

    Raises ConfigError if it is neither, or has no safetensors weights or config.json.
    """
    folder = resolve_model(path, download=("*.safetensors", "config.json", *ENGINE_FILES))
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model {path!r} cannot be evaluated: {folder} has no config.json or no *.safetensors; "
            "save it with save_pretrained"
        )
    return folder.resolve()


def context_length(folder: Path) -> int | None:
    """The context that a model's config.json declares, in tokens; None if it declares none."""
    config = read_json(folder / "config.json", dict[str, Any], "a model's config.json")
    text: dict[str, Any] = config.get("text_config") or config
    context = text.get("max_position_embeddings")
    return context if isinstance(context, int) else None


def model_digest(folder: Path) -> str:
    """Digest of all that makes a model answer as it does: weights, config, tokenizer, chat template."""
    names = ("config.json", *ENGINE_FILES)
    files = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in names)]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return json_sha256([[f.name, _cached_digest(f, s.st_size, s.st_mtime_ns, s.st_ino)] for f, s in stats])


@cache
def _cached_digest(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """Weights are read once a process; a file that was written anew has other statistics."""
    return file_sha256(path)
