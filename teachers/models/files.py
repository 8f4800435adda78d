"""The files of a model's folder: which of them are read, and what they say of themselves."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, RootModel

from common import digests, reading
from common.errors import ConfigError
from common.files import is_file_name

Typed = TypeVar("Typed")

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file; transformers takes the first that is there, before the index of several."""

INDEX_END = ".index.json"

NO_MODELS = ("adapter_", "consolidated")
"""Beginnings of safetensors files that are no part of a model in this format."""

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors file's header: safetensors' own limit."""


class TextConfig(BaseModel):
    """What is read of a `config.json`, or of the text model's part in it."""

    vocab_size: Annotated[int, Field(gt=0, lt=2**31)]
    max_position_embeddings: Annotated[int, Field(gt=0, lt=2**63)] | None = None
    tie_word_embeddings: bool | None = None
    num_attention_heads: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    num_key_value_heads: Annotated[int, Field(gt=0, lt=2**31)] | None = None


class WholeConfig(BaseModel):
    """What a `config.json` says the model is."""

    architectures: list[str] | None = None
    model_type: str = "unknown"
    text_config: dict[str, Any] | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool | None = None

    @property
    def architecture(self) -> str:
        """Model class, such as `LlamaForCausalLM`."""
        return self.architectures[0] if self.architectures else self.model_type


class _Index(BaseModel):
    weight_map: dict[str, str]


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="forbid")
    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


class _Header(RootModel[dict[str, _Tensor]]):
    pass


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file; raises ConfigError if there is none."""
    return read_typed(path, dict[str, Any])


def read_typed(path: Path, shape: type[Typed]) -> Typed:
    """A model's JSON file as this type; raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path.parent}: no {path.name}; not a model in Hugging Face format")
    return reading.read_json(path, shape, f"a model's {path.name}")


def text_settings(folder: Path) -> dict[str, Any]:
    """The entries of `config.json`, those of the text model where it has several; checked as `TextConfig`."""
    path = folder / "config.json"
    whole = read_typed(path, WholeConfig)
    found = read_json(path) if whole.text_config is None else whole.text_config
    place = str(path) if whole.text_config is None else f"{path}: text_config"
    reading.typed_value(found, TextConfig, place)
    return found


# ------------------------------------------------------------------------------------------ weights


def weight_files(folder: Path) -> list[Path]:
    """The weight files that transformers reads, by name; raises ConfigError where it reads none, or where
    vLLM would read others."""
    for single in SINGLE:
        if (folder / single).is_file():
            _refuse_others(folder, single)
            return [folder / single]
        if (folder / (single + INDEX_END)).is_file():
            return _indexed(folder, folder / (single + INDEX_END))
    raise ConfigError(
        f"{folder}: no weights that transformers finds ({', '.join(SINGLE)}, or either's {INDEX_END[1:]} "
        "with the files that it names)"
    )


def _refuse_others(folder: Path, single: str) -> None:
    """Beside weights in one file: others of the same format, which vLLM reads as well."""
    index = folder / (single + INDEX_END)
    named = {file.name for file in _indexed(folder, index)} if index.is_file() else set()
    if single.endswith(".safetensors"):
        named |= {file.name for file in folder.glob("*.safetensors") if not file.name.startswith(NO_MODELS)}
    if others := sorted(named - {single}):
        raise ConfigError(
            f"{folder}: holds {single} and other weights beside it ({others[0]}); transformers reads the "
            "one, vLLM all; remove those that are not the model's"
        )


def _indexed(folder: Path, index: Path) -> list[Path]:
    names = sorted(set(reading.read_json(index, _Index, "an index of weight files").weight_map.values()))
    if strange := [name for name in names if not is_file_name(name)]:
        raise ConfigError(f"{index}: names {strange[0]!r:.80}, which is no file of this folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: no weight file {missing[0]} ({len(missing)} of {len(names)} missing), which "
            f"{index.name} names"
        )
    if not names:
        raise ConfigError(f"{index}: names no weight file")
    return [folder / name for name in names]


def file_sha256(file: Path) -> str:
    """Digest of a file's bytes, read once a process."""
    return _file_sha256(*stamp(file))


def stamp(file: Path) -> tuple[str, int, int]:
    """Path, size and time of the last change, by which content that was read is kept."""
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


@cache
def _file_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    return digests.file_sha256(Path(path))


def tensor_shapes(files: list[Path]) -> dict[str, list[int]]:
    """Shape of every tensor, by name, from the headers of safetensors files."""
    shapes: dict[str, list[int]] = {}
    for file in (file for file in files if file.suffix == ".safetensors"):
        shapes |= {name: tensor.shape for name, tensor in _safetensors_header(file).items()}
    return shapes


def _safetensors_header(file: Path) -> dict[str, _Tensor]:
    """What the file holds; one that is cut off (or a Git LFS pointer) is refused."""
    with reading.opened(file, "a safetensors file") as content:
        size = file.stat().st_size
        start = content.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        text = content.read(length) if length <= min(size - 8, LARGEST_HEADER) else b""
    try:
        entries = reading.typed_json(text, dict[str, Any], str(file))
        entries.pop("__metadata__", None)
        header = reading.typed_value(entries, _Header, str(file)).root
    except ConfigError:
        raise ConfigError(f"{file}: not a safetensors file (cut off, or a Git LFS pointer?)") from None
    end = 8 + length + max((tensor.data_offsets[1] for tensor in header.values()), default=0)
    if end != size:
        raise ConfigError(f"{file}: cut off: {size} bytes of {end}")
    _refuse_header(file)
    return header


def _refuse_header(file: Path) -> None:
    """Raises ConfigError for what safetensors itself would not open."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: not a safetensors file: {error}") from None


# ---------------------------------------------------------------------------------------- tokenizer


class _Added(BaseModel):
    content: str
    id: NonNegativeInt


class _Model(BaseModel):
    vocab: dict[str, NonNegativeInt] | list[tuple[str, float]]
    merges: list[str | tuple[str, str]] | None = None


class TokenizerFile(BaseModel):
    """What is read of a `tokenizer.json`."""

    model: _Model
    added_tokens: list[_Added] | None = None

    def vocabulary(self) -> dict[str, int]:
        """Token to id, added tokens too."""
        listed = self.model.vocab
        known = listed if isinstance(listed, dict) else {token: i for i, (token, _) in enumerate(listed)}
        return {**known, **{token.content: token.id for token in self.added_tokens or []}}

    def merges(self) -> list[str]:
        """Pairs that are merged, each as one text."""
        return [merge if isinstance(merge, str) else " ".join(merge) for merge in self.model.merges or []]


class _Token(BaseModel):
    content: str


class _NamedTemplate(BaseModel):
    name: str
    template: str


class TokenizerSettings(BaseModel):
    """What is read of a `tokenizer_config.json`."""

    eos_token: str | _Token | None = None
    chat_template: str | list[_NamedTemplate] | None = None

    @property
    def eos(self) -> str | None:
        """The token that ends a text."""
        return self.eos_token.content if isinstance(self.eos_token, _Token) else self.eos_token

    @property
    def template(self) -> str | None:
        """The default chat template."""
        if isinstance(self.chat_template, list):
            named = {entry.name: entry.template for entry in self.chat_template}
            return named.get("default")
        return self.chat_template


class GenerationSettings(BaseModel):
    """What is read of a `generation_config.json`."""

    eos_token_id: int | list[int] | None = None


def tokenizer_settings(folder: Path) -> TokenizerSettings:
    """Those of a folder; defaults where it has no such file."""
    path = folder / "tokenizer_config.json"
    return read_typed(path, TokenizerSettings) if path.is_file() else TokenizerSettings()
