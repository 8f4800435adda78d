"""What is known of an expert: its record, as `record.json` holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, PositiveInt

from common.errors import ConfigError
from common.reading import typed_json

RECORD = "record.json"
MODEL = "model"
LEARNING_CURVE = "learning_curve.jsonl"
ID_CHARACTERS = 16


@dataclass(frozen=True)
class ExpertRecord:
    """Where an expert comes from and what it is.

    A field that is None was not recorded, by an older version or because there is no such thing.
    """

    id: str
    """Digest of `identity`."""
    domain: str
    """Name of the domain it was built or imported for."""
    identity: dict[str, Any]
    """All that decides its weights (base, recipe, reward, data, lengths); of an imported one its digests."""
    weights_sha256: str
    """Digest of its weight files."""
    prompts: int | None
    """Prompts it was trained on here."""
    final_reward: float | None
    """Mean reward of the last tenth of its steps, in [0, 1]."""
    wall_seconds: float | None
    """Time of all attempts together."""
    attempts: int | None
    """1 for an uninterrupted build."""
    created: str
    """End of the build, or of the import; ISO 8601, UTC."""
    versions: dict[str, str]
    """Packages and machine."""
    path: str = ""
    """The expert's folder; not stored, since it may move."""
    kind: str = "built"
    """`built` here or `imported`."""
    source: str | None = None
    """What was imported: a folder or hub name."""
    declaration: dict[str, Any] | None = None
    """The config's block of the domain."""
    base: dict[str, Any] | None = None
    """`path` and `weights_sha256` of the model it was made from, or is measured against."""
    parent: str | None = None
    """Id of the expert that it was made from, else the digest of the base's weights."""
    fingerprint: dict[str, Any] | None = None
    """Digests of tokenizer and chat template, EOS ids, context, architecture, parameters."""
    trained_tokens: int | None = None
    """Longest sequence it was trained on: prompt and response limits together."""
    data_sha256: str | None = None
    """Digest of its training prompts and answers."""
    seed: int | None = None
    """Seed of its training."""
    learning_curve: str | None = None
    """Name of the file of its learning curve."""
    resumed: int | None = None
    """How often its training was continued after a stop."""
    evaluation: dict[str, dict[str, Any]] | None = None
    """By benchmark (`<name>@greedy` for greedy answers): accuracy, n problems, 95% interval, unscored
    answers, and, where it was measured, the base beside it; None: not measured."""
    evaluation_settings: dict[str, Any] | None = None
    """Number of samples, temperature, seed, length limit and chat template arguments of the evaluation."""
    distance: dict[str, Any] | None = None
    """How far its weights are from its base's, or why that was not measured (`not_measured`)."""
    size_bytes: int | None = None
    """All its files but the record."""
    files: dict[str, str] | None = None
    """SHA-256 of every file but the record, by path within the folder."""

    @property
    def model_path(self) -> str:
        """Folder of the model."""
        return str(Path(self.path) / MODEL)

    @property
    def base_sha256(self) -> str | None:
        """Digest of the weights of the model that it was made from."""
        return (self.base or {}).get("weights_sha256") or self.identity.get("base_weights")


def expert_id(identity: Mapping[str, Any]) -> str:
    """The id that an expert with this identity has."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS]


def record_json(record: ExpertRecord) -> dict[str, Any]:
    """The record as it is stored: without the folder, which may move."""
    return {key: value for key, value in asdict(record).items() if key != "path"}


def parse_record(text: str | bytes, where: str, folder: Path) -> ExpertRecord:
    """The record in a `record.json`; fields that only another version knows are left out.

    Raises ConfigError, naming `where`, for anything else.
    """
    place = f"{where}: damaged, or no expert's record"
    typed_json(text, _Inner, place)
    record = typed_json(text, ExpertRecord, place)
    if not (record.domain.isprintable() and record.id.isprintable() and record.created.isprintable()):
        raise ConfigError(f"{place}: its names have signs that no terminal should be sent")
    return replace(record, path=str(folder))


# What is read of a record's inner values, whose other entries are only kept.


class _Score(BaseModel):
    accuracy: FiniteFloat | None
    n: int
    unscored: int
    interval: tuple[FiniteFloat, FiniteFloat] | None
    base: _Score | None = None
    difference: FiniteFloat | None = None
    difference_interval: tuple[FiniteFloat, FiniteFloat] | None = None


class _Largest(BaseModel):
    name: str
    relative_l2: FiniteFloat | None


class _Distance(BaseModel):
    relative_l2: FiniteFloat | None
    changed_share: FiniteFloat
    tensors: int
    largest: _Largest | None


class _NoDistance(BaseModel):
    not_measured: str


class _Recipe(BaseModel):
    prompts_per_step: PositiveInt
    samples_per_prompt: PositiveInt


class _Identity(BaseModel):
    recipe: _Recipe | None = None
    base_weights: str | None = None


class _Base(BaseModel):
    path: str | None = None
    weights_sha256: str | None = None


class _Inner(BaseModel):
    identity: _Identity
    base: _Base | None = None
    evaluation: dict[str, _Score] | None = None
    distance: _NoDistance | _Distance | None = None
