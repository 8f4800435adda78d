"""What a model folder holds, read from its files without loading a model, and whether two models match."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.digests import json_sha256
from common.errors import ConfigError
from common.models import resolve_model
from common.reading import read_text, typed_json
from common.remote import first_line
from teachers.models import files
from teachers.models.files import GenerationSettings, TextConfig, TokenizerFile, WholeConfig

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


def fingerprint(path: str | Path) -> ModelFingerprint:
    """The fingerprint of a model folder or of a hub name in the local cache.

    Reads every weight byte once a process: the digests are kept by path, size and change time.
    Raises ConfigError if the folder is no complete model.
    """
    folder = resolve_model(str(path))
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder}: is an adapter, not a full model; an expert is one with `kind: adapter`")
    config = files.read_typed(folder / "config.json", WholeConfig)
    text = TextConfig(**files.text_settings(folder))
    vocabulary, _ = _tokenizer(folder)
    weights = files.weight_files(folder)
    shapes = without_tied_head(files.tensor_shapes(weights), folder)
    sizes = [math.prod(shape) for shape in shapes.values()]
    return ModelFingerprint(
        weights_sha256=json_sha256([[file.name, files.file_sha256(file)] for file in weights]),
        tokenizer_sha256=tokenizer_sha256(folder),
        eos_token_ids=_eos_token_ids(folder, config, vocabulary),
        chat_template_sha256=chat_template_sha256(folder),
        vocab_size=text.vocab_size,
        tokenizer_size=len(vocabulary),
        max_position_embeddings=text.max_position_embeddings,
        architecture=config.architecture,
        shapes_sha256=json_sha256(sorted(shapes.items())) if shapes else None,
        parameters=sum(sizes) or sum(file.stat().st_size for file in weights) // 2,
        path=str(folder),
    )


HEAD = "lm_head.weight"


def is_tied(folder: Path) -> bool:
    """Whether the output head is the embedding, by config.json."""
    path = folder / "config.json"
    own = files.read_typed(path, WholeConfig).tie_word_embeddings
    return bool(files.text_settings(folder).get("tie_word_embeddings") if own is None else own)


def without_tied_head(shapes: dict[str, list[int]], folder: Path) -> dict[str, list[int]]:
    """The tensors without a head that is the embedding: some write it out, and some do not."""
    tied = HEAD in shapes and is_tied(folder)
    return {name: shape for name, shape in shapes.items() if not (tied and name == HEAD)}


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


def check_tensors(model: ModelFingerprint, name: str) -> None:
    """Raise ConfigError unless the files hold exactly the tensors of the architecture, as transformers loads
    it: what is missing it would fill with random numbers, what is too much it would leave out."""
    from teachers.models.fit import misfits

    if problem := misfits(Path(model.path)):
        raise ConfigError(f"{name} ({model.path}): {problem}")


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


# ---------------------------------------------------------------------------------------- tokenizer


def tokenizer_sha256(folder: Path) -> str:
    """Digest of a folder's vocabulary and merges, however the file spells them."""
    vocabulary, merges = _tokenizer(folder)
    return json_sha256([sorted(vocabulary.items()), merges])


def _tokenizer(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Vocabulary (token to id, added tokens too) and merges."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            return _read_tokenizer(*files.stamp(folder / name))
    raise ConfigError(f"{folder}: no tokenizer (tokenizer.json or tokenizer_config.json)")


@lru_cache(maxsize=8)
def _read_tokenizer(path: str, _size: int, _mtime_ns: int) -> tuple[dict[str, int], list[str]]:
    file = Path(path)
    if file.name == "tokenizer.json":
        content = files.read_typed(file, TokenizerFile)
    else:
        content = typed_json(_converted_tokenizer(file.parent), TokenizerFile, path)
    vocabulary = content.vocabulary()
    if not vocabulary:
        raise ConfigError(f"{file}: the tokenizer has no vocabulary")
    return vocabulary, content.merges()


def _converted_tokenizer(folder: Path) -> str:
    """tokenizer.json's content for a folder that has only the older files, by transformers."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # of many kinds, for a broken folder
        raise ConfigError(
            f"{folder}: no tokenizer.json, and transformers cannot make it: {first_line(error)}"
        ) from None


def _eos_token_ids(folder: Path, config: WholeConfig, vocabulary: dict[str, int]) -> tuple[int, ...]:
    """The tokenizer's EOS and generation_config.json's (config.json's where there is no such file)."""
    token = files.tokenizer_settings(folder).eos
    if token is not None and token not in vocabulary:
        raise ConfigError(f"{folder / 'tokenizer_config.json'}: eos_token {token!r} is not in the vocabulary")
    file = folder / "generation_config.json"
    stated = (files.read_typed(file, GenerationSettings) if file.is_file() else config).eos_token_id
    ids = list(stated) if isinstance(stated, list) else [] if stated is None else [stated]
    if token is not None:
        ids.append(vocabulary[token])
    if not ids:
        raise ConfigError(f"{folder}: no EOS token in tokenizer_config.json or generation_config.json")
    return tuple(sorted(set(ids)))


def chat_template_sha256(folder: Path) -> str | None:
    """Digest of the default chat template: chat_template.jinja, else tokenizer_config.json's."""
    file = folder / "chat_template.jinja"
    template = read_text(file) if file.is_file() else files.tokenizer_settings(folder).template
    return None if template is None else hashlib.sha256(template.strip().encode()).hexdigest()
