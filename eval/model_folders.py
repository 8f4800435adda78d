"""Folders of models that are evaluated."""

from __future__ import annotations

import json
from pathlib import Path

from configs.load import ConfigError
from eval.engine_weights import ENGINE_FILES


def resolve_model(path: str) -> Path:
    """Local folder of a model given as folder or hub name (downloaded if it is not in the cache).

    Raises ConfigError if it is neither, or has no safetensors weights or config.json.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _download(path)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model {path!r} cannot be evaluated: {folder} has no config.json or no *.safetensors; "
            "save it with save_pretrained"
        )
    return folder.resolve()


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "config.json", *ENGINE_FILES]))
    except Exception as error:
        raise ConfigError(
            f"model {name!r} is neither a folder nor a hub model that can be loaded here "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from error


def context_length(folder: Path) -> int | None:
    """The context that a model's config.json declares, in tokens; None if it declares none."""
    config = json.loads((folder / "config.json").read_text())
    return config.get("text_config", config).get("max_position_embeddings")
