"""What a model folder holds, read from its files without loading a model, and whether two models match."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from configs.load import ConfigError

PADDING_MULTIPLE = 64
LARGEST_PADDING = 0.01
"""Vocabularies are rounded up to a multiple of the one, by less than the other's share of it."""


@dataclass(frozen=True)
class ModelFingerprint:
    """Identity and limits of a model in Hugging Face format."""

    weights_sha256: str
    """Over the bytes of all weight files."""
    tokenizer_sha256: str
    """Over vocabulary (added tokens too) and merges, however the file spells them."""
    eos_token_ids: tuple[int, ...]
    """Where generation ends: the tokenizer's EOS and the generation config's, sorted."""
    chat_template_sha256: str | None
    """Over the chat template; None where there is none."""
    vocab_size: int
    """Rows of the model's output, from config.json."""
    tokenizer_size: int
    """Tokens that the tokenizer knows: transformers' `len(tokenizer)`."""
    max_position_embeddings: int | None
    """Longest context in tokens; None where config.json states none."""
    architecture: str
    """Model class, such as `LlamaForCausalLM`."""
    shapes_sha256: str | None
    """Over names and shapes of all tensors; None without safetensors."""
    parameters: int
    """Number of weights (without safetensors: estimated at two bytes each)."""
    path: str
    """The folder."""


def resolve_model(name: str) -> Path:
    """The folder of a model: the path itself, or the local snapshot of a hub name.

    Nothing is downloaded. Raises ConfigError for what is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")):
        raise ConfigError(f"{name}: no such model folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        raise ConfigError(
            f"{name}: neither a model folder nor a model in the local Hugging Face cache; "
            f"`hf download {name}` fetches a model of the hub"
        ) from None


def fingerprint(path: str | Path) -> ModelFingerprint:
    """The fingerprint of a model folder or of a hub name in the local cache.

    Reads every weight byte once a process: the digests are kept by path, size and change time.
    Raises ConfigError if the folder is no complete model.
    """
    folder = resolve_model(str(path))
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder}: is an adapter, not a full model; an expert is one with `kind: adapter`")
    config = read_json(folder / "config.json")
    text_config = config.get("text_config", config)
    if not isinstance(text_config.get("vocab_size"), int):
        raise ConfigError(f"{folder / 'config.json'}: no whole number `vocab_size`")
    vocabulary, _ = _tokenizer(folder)
    files = weight_files(folder)
    shapes = tensor_shapes(files)
    sizes = [math.prod(shape) for shape in shapes.values()]
    return ModelFingerprint(
        weights_sha256=_digest([[file.name, file_sha256(file)] for file in files]),
        tokenizer_sha256=tokenizer_sha256(folder),
        eos_token_ids=_eos_token_ids(folder, config, vocabulary),
        chat_template_sha256=chat_template_sha256(folder),
        vocab_size=text_config["vocab_size"],
        tokenizer_size=len(vocabulary),
        max_position_embeddings=text_config.get("max_position_embeddings"),
        architecture=(config.get("architectures") or [config.get("model_type", "unknown")])[0],
        shapes_sha256=_digest(sorted(shapes.items())) if shapes else None,
        parameters=sum(sizes) or sum(file.stat().st_size for file in files) // 2,
        path=str(folder),
    )


def facts(model: ModelFingerprint) -> dict[str, Any]:
    """What an expert's record keeps of a model, in plain values."""
    return {
        "tokenizer_sha256": model.tokenizer_sha256,
        "eos_token_ids": list(model.eos_token_ids),
        "chat_template_sha256": model.chat_template_sha256,
        "max_position_embeddings": model.max_position_embeddings,
        "architecture": model.architecture,
        "parameters": model.parameters,
    }


# -------------------------------------------------------------------------------------------- checks


def check_compatible(student: ModelFingerprint, teacher: ModelFingerprint, name: str) -> None:
    """Raise ConfigError, one message a difference, unless the teacher reads the student's tokens alike.

    `name` names the teacher in the messages. Scores are per token id, so tokenizer, EOS and chat
    template must be the same; size and architecture may differ.
    """
    problems = _other_tokenizer(student, teacher)
    if student.eos_token_ids != teacher.eos_token_ids:
        problems.append(
            f"other EOS token ids than the student's: {list(teacher.eos_token_ids)} against "
            f"{list(student.eos_token_ids)} (tokenizer_config.json and generation_config.json)"
        )
    if student.chat_template_sha256 != teacher.chat_template_sha256:
        problems.append(
            "another chat template than the student's: sha256 "
            f"{_short(teacher.chat_template_sha256)} against {_short(student.chat_template_sha256)}"
        )
    if problems:
        raise ConfigError(*(f"{name} ({teacher.path}): {problem}" for problem in problems))


def check_reference(student: ModelFingerprint, reference: ModelFingerprint, name: str) -> None:
    """Raise ConfigError unless the reference reads the student's token ids; it is never prompted itself."""
    for problem in _other_tokenizer(student, reference):
        raise ConfigError(f"{name} ({reference.path}): {problem}")


def _other_tokenizer(student: ModelFingerprint, other: ModelFingerprint) -> list[str]:
    if student.tokenizer_sha256 == other.tokenizer_sha256:
        return []
    return [f"another tokenizer than the student's: {_tokenizer_difference(student, other)}"]


def check_vocabulary(model: ModelFingerprint, name: str) -> None:
    """Raise ConfigError unless the model has one output for each token of its tokenizer.

    verl masks the outputs without a token while sampling and not while training, so log-probabilities
    would differ between the two. Rows that only round the vocabulary up for the hardware, as Qwen3's do,
    pass: they were never trained on, so next to no probability lies there, and the importance weight
    corrects for it.
    """
    padding = model.vocab_size - model.tokenizer_size
    rounded_up = 0 < padding < LARGEST_PADDING * model.vocab_size and model.vocab_size % PADDING_MULTIPLE == 0
    if padding != 0 and not rounded_up:
        raise ConfigError(
            f"{name} ({model.path}): vocab_size {model.vocab_size} in config.json differs from the "
            f"tokenizer's {model.tokenizer_size} tokens; they must be equal (transformers: "
            "model.resize_token_embeddings(len(tokenizer)))"
        )


def check_context(model: ModelFingerprint, prompt_tokens: int, response_tokens: int, name: str) -> None:
    """Raise ConfigError if prompt + response + the one token that scoring adds exceed the context."""
    needed = prompt_tokens + response_tokens + 1
    limit = model.max_position_embeddings
    if limit is not None and needed > limit:
        raise ConfigError(
            f"{name} ({model.path}): context of {limit} tokens is too short for prompts of "
            f"{prompt_tokens} + responses of {response_tokens} (max_prompt_tokens, max_response_tokens) "
            f"+ 1 = {needed}"
        )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _tokenizer_difference(student: ModelFingerprint, teacher: ModelFingerprint) -> str:
    """The first token id, by number, that the two tokenizers read differently, else their sizes."""
    ours, theirs = (_tokenizer(Path(model.path))[0] for model in (student, teacher))
    ours, theirs = ({i: token for token, i in vocabulary.items()} for vocabulary in (ours, theirs))
    for i in sorted(ours.keys() | theirs.keys()):
        if ours.get(i) != theirs.get(i):
            return (
                f"{len(theirs)} tokens against {len(ours)}; id {i} is {theirs.get(i, 'unused')!r} "
                f"against {ours.get(i, 'unused')!r}"
            )
    return "same vocabulary, other merges"


# ----------------------------------------------------------------------------------------- the files


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file; raises ConfigError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: no {path.name}; not a model in Hugging Face format") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return content


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Weight files by name: safetensors if there are any, else PyTorch's."""
    index = _optional_json(folder / "model.safetensors.index.json")
    expected = [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]
    missing = [file.name for file in expected if not file.is_file()]
    if missing:
        count = f"{len(missing)} of {len(expected)} missing"
        raise ConfigError(f"{folder}: no weight file {missing[0]} ({count})")
    files = expected or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ConfigError(f"{folder}: no weights (*.safetensors or pytorch_model*.bin)")
    return files


def file_sha256(file: Path) -> str:
    """Digest of a file's bytes, read once a process."""
    return _file_sha256(*_stamp(file))


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


@cache
def _file_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_shapes(files: list[Path]) -> dict[str, list[int]]:
    """Shape of every tensor, by name, from the headers of safetensors files."""
    shapes: dict[str, list[int]] = {}
    for file in (file for file in files if file.suffix == ".safetensors"):
        header = _safetensors_header(file)
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return shapes


def _safetensors_header(file: Path) -> dict[str, Any]:
    """The JSON header; a file that is cut off (or a Git LFS pointer) is refused."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        try:
            header = json.loads(content.read(length)) if length < size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise ConfigError(f"{file}: not a safetensors file (cut off, or a Git LFS pointer?)")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != size:
        raise ConfigError(f"{file}: cut off: {size} bytes of {8 + length + max(ends, default=0)}")
    return header


def tokenizer_sha256(folder: Path) -> str:
    """Digest of a folder's vocabulary and merges, however the file spells them."""
    vocabulary, merges = _tokenizer(folder)
    return _digest([sorted(vocabulary.items()), merges])


def _tokenizer(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Vocabulary (token to id, added tokens too) and merges."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            return _read_tokenizer(*_stamp(folder / name))
    raise ConfigError(f"{folder}: no tokenizer (tokenizer.json or tokenizer_config.json)")


@lru_cache(maxsize=8)
def _read_tokenizer(path: str, _size: int, _mtime_ns: int) -> tuple[dict[str, int], list[str]]:
    file = Path(path)
    content = read_json(file) if file.name == "tokenizer.json" else _converted_tokenizer(file.parent)
    model = content.get("model", {})
    listed = model.get("vocab", {})
    vocabulary = dict(listed) if isinstance(listed, dict) else {entry[0]: i for i, entry in enumerate(listed)}
    vocabulary |= {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    if not vocabulary:
        raise ConfigError(f"{file}: the tokenizer has no vocabulary")
    return vocabulary, merges


def _converted_tokenizer(folder: Path) -> dict[str, Any]:
    """tokenizer.json's content for a folder that has only the older files, by transformers."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return json.loads(tokenizer.backend_tokenizer.to_str())
    except (AttributeError, OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no tokenizer.json, and transformers cannot make it: {error}") from None


def _eos_token_ids(folder: Path, config: dict[str, Any], vocabulary: dict[str, int]) -> tuple[int, ...]:
    """The tokenizer's EOS and generation_config.json's (config.json's where there is no such file)."""
    token = _optional_json(folder / "tokenizer_config.json").get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None and token not in vocabulary:
        raise ConfigError(f"{folder / 'tokenizer_config.json'}: eos_token {token!r} is not in the vocabulary")
    generation_file = folder / "generation_config.json"
    stated = (read_json(generation_file) if generation_file.is_file() else config).get("eos_token_id")
    ids = list(stated) if isinstance(stated, list) else [] if stated is None else [stated]
    if token is not None:
        ids.append(vocabulary[token])
    if not ids:
        raise ConfigError(f"{folder}: no EOS token in tokenizer_config.json or generation_config.json")
    return tuple(sorted(set(ids)))


def chat_template_sha256(folder: Path) -> str | None:
    """Digest of the default chat template: chat_template.jinja, else tokenizer_config.json's."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    else:
        template = _optional_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return None if template is None else hashlib.sha256(template.strip().encode()).hexdigest()
